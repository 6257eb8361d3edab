"""The signatures of a message that Pillarbox has sent, held against others' verifiers: dkimpy verifies all of them, OpenDKIM those
by RSA, and Exim says in its log what it made of each. Keys and records are those of `pillarbox dkim add`.
"""
import os, re, subprocess, tempfile

import dkim

SIGNATURE = re.compile(rb'^DKIM-Signature:(?:[^\r\n]|\r\n[ \t])*\r\n', re.M | re.I)


class Keys:
    """An RSA key and an Ed25519 key, the lines that configure them, and the records that publish them."""

    def __init__(self, pillarbox, configuration, domain):
        command = [pillarbox, '-c', configuration, 'dkim', 'add', domain, '--ed25519']
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.domain, self.lines = domain, text[text.index('[dkim]'):]
        found = re.findall(r'^(\S+)\. IN TXT \( (.*?) \)$', text, re.M | re.S)
        self.records = {name: ''.join(re.findall('"([^"]*)"', pieces)) for name, pieces in found}
        self.selectors = {'rsa': 'pb1', 'ed25519': 'pb2'}
        for kind, selector in self.selectors.items():
            assert f'k={kind};' in self.records[f'{selector}._domainkey.{domain}'], text

    def look_up(self, name, timeout=5):
        return self.records.get(name.decode().rstrip('.'), '').encode() or None


class NameServer:
    """dnsmasq on port 53, which has these records and no others."""

    def __init__(self, records):
        command = ['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--pid-file=',
                   '--listen-address=127.0.0.1', '--bind-interfaces', '--local=/#/', '--user=root']
        for name, text in records.items():
            pieces = [text[at:at + 255] for at in range(0, len(text), 255)]
            command.append(f'--txt-record={name},{",".join(pieces)}')
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class EximLog:
    """What Exim, with log_selector = +dkim_verbose, writes from now on."""

    def __init__(self, path):
        self.path, self.skipped = path, os.path.getsize(path)

    def verified(self, selectors):
        """True once it has verified these. None may have failed."""
        with open(self.path, errors='replace') as file:
            file.seek(self.skipped)
            lines = [line for line in file if ' DKIM: d=' in line]
        failed = [line for line in lines if '[verification succeeded]' not in line]
        if failed:
            raise AssertionError(f'Exim: {failed}')
        return all(any(f' s={selector} ' in line for line in lines) for selector in selectors)


def check(keys, text):
    """Raises unless a message with CRLF is signed by each key, and every signature in it verifies."""
    message = dkim.DKIM(text, minkey=1024)
    fields = [value for name, value in message.headers if name.lower() == b'dkim-signature']
    for number, field in enumerate(fields):
        if not message.verify(idx=number, dnsfunc=keys.look_up):
            raise AssertionError(f'dkimpy: does not verify: {field!r}')
    for selector in keys.selectors.values():
        if sum(bytes(f's={selector};', 'ascii') in field for field in fields) != 1:
            raise AssertionError(f'not signed once by {selector}: {text[:2000]!r}')
    opendkim(keys, SIGNATURE.sub(lambda field: b'' if b'a=ed25519-' in field.group() else field.group(), text))


def opendkim(keys, text):
    """It takes its records from a file, and looks at the first signature."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in (
            ('message', text),
            ('zone', ''.join(f'{name} {record}\n' for name, record in keys.records.items()).encode()),
            ('conf', f'Mode v\nSyslog no\nTestDNSData file:{place}/zone\n'.encode()),
        ):
            with open(f'{place}/{name}', 'wb') as file:
                file.write(content)
        command = ['/usr/sbin/opendkim', '-x', f'{place}/conf', '-t', f'{place}/message', '-v']
        done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if f'verification (s={keys.selectors["rsa"]}, d={keys.domain}, 2048-bit key) succeeded' not in said:
        raise AssertionError(f'OpenDKIM: {said}')
