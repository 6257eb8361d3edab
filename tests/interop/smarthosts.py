"""Pillarbox sends through a smarthost: what went in comes out, and what the smarthost refuses is told to the right people.

`road`: messages through a real server, by implicit TLS and by STARTTLS, compared byte for byte with the copy that Pillarbox has
stored for a local recipient of the same message, and with what the client said, after the trace fields that each server adds;
and its signatures verified (signatures.py).
`faults`: Postfix's smtp-sink (after a terminator of TLS) and aiosmtpd refuse, defer, stall and hang up at every step; the log,
the spool and the reports are looked at. A line a case, "ok …" or "FAILED …".
"""
import asyncio, base64, email, email.policy, logging, os, re, shutil, signal, smtplib, socket, ssl, subprocess, sys, tempfile
import threading, time, traceback, warnings

import dkim

import signatures

# AUTH without STARTTLS is right where TLS is there from the first octet.
warnings.filterwarnings('ignore')
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from flufl.bounce import all_failures

PATIENCE = 30  # seconds, for anything
TRACE = {'return-path', 'delivered-to', 'x-original-to', 'received', 'envelope-to', 'delivery-date', 'dkim-signature'}
HEAD = (b'From: alice@example.org\r\nTo: carol@elsewhere.example\r\nSubject: smarthost\r\n'
        b'Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n')
pillarbox, bench = sys.argv[2:4]
logging.getLogger('mail.log').setLevel(logging.CRITICAL)


class Failure(Exception):
    pass


def want(truth, text):
    if not truth:
        raise Failure(text)


def case(name, run):
    try:
        print(f'ok {name}{run() or ""}', flush=True)
    except Exception as error:  # one case that fails is no reason to leave out the others
        told = str(error) if isinstance(error, Failure) else traceback.format_exc()
        print(f'FAILED {name}: {told}', flush=True)


def until(look, what, limit=PATIENCE):
    begun = time.monotonic()
    while not (found := look()):
        want(time.monotonic() - begun < limit, f'{what() if callable(what) else what}: not within {limit} s')
        time.sleep(0.02)
    return found


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Sender:
    """A Pillarbox that sends everything for other domains to one smarthost."""

    def __init__(self, url, login=True):
        self.place = tempfile.mkdtemp(dir='/tmp')
        os.chmod(self.place, 0o755)
        self.port, self.content = free_port(), b''
        route = f'login = "alice@example.org"\npassword_file = "{self.place}/password"\n' if login else ''
        with open(f'{self.place}/password', 'w') as file:
            file.write('secret\n')
        os.chmod(f'{self.place}/password', 0o640)
        with open(f'{self.place}/pillarbox.toml', 'w') as file:
            file.write(f'hostname = "out.example.org"\ndomains = ["example.org"]\nuser = "nobody"\nusers = "{self.place}/users"\n'
                       f'maildir = "{self.place}/mail/{{domain}}/{{user}}"\nstate = "{self.place}/state"\n'
                       f'[listen]\nsubmissions = ["127.0.0.1:{self.port}"]\n[limits]\nmessage_size = "64M"\n'
                       f'[tls]\ncertificate = "{bench}/cert.pem"\nkey = "{bench}/key.pem"\n'
                       f'[outgoing]\nvia = "provider"\nspool = "{self.place}/spool"\npostmaster = "bob@example.org"\n'
                       f'[outgoing.routes.provider]\nurl = "{url}"\nca = "{bench}/cert.pem"\n{route}')
        for user in 'alice', 'bob':
            subprocess.run([pillarbox, '-c', f'{self.place}/pillarbox.toml', 'user', 'add', f'{user}@example.org'],
                           input=b'secret\n', check=True, capture_output=True)
        self.keys = signatures.Keys(pillarbox, f'{self.place}/pillarbox.toml', 'example.org')
        with open(f'{self.place}/pillarbox.toml', 'a') as file:
            file.write(self.keys.lines)
        for path in '', '/users', '/password':
            shutil.chown(self.place + path, 'nobody')
        self.start()

    def start(self):
        self.log = open(f'{self.place}/log', 'ab')
        self.skipped = os.path.getsize(f'{self.place}/log')
        self.process = subprocess.Popen([pillarbox, '-c', f'{self.place}/pillarbox.toml', 'serve'], stderr=self.log)
        self.wait('started service=submissions')

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.place)

    def lines(self, *parts):
        with open(f'{self.place}/log', 'rb') as file:
            file.seek(self.skipped)
            lines = file.read().decode(errors='replace').splitlines()
        return [line for line in lines if all(part in line for part in parts)]

    def wait(self, *parts):
        return until(lambda: self.lines(*parts), lambda: f'no line with {parts} in\n' + '\n'.join(self.lines('')[-25:]))[-1]

    def submit(self, to, content, sender='alice@example.org', options=('BODY=8BITMIME',)):
        context = ssl.create_default_context(cafile=f'{bench}/cert.pem')
        with smtplib.SMTP_SSL('localhost', self.port, local_hostname='client.example', context=context, timeout=60) as smtp:
            smtp.login('alice@example.org', 'secret')
            if 'SMTPUTF8' in options:
                smtp.command_encoding = 'utf-8'
            refused = smtp.sendmail(sender, to, content, mail_options=list(options))
            want(not refused, f'refused: {refused}')

    def queued(self, directory='queue'):
        return sorted(os.listdir(f'{self.place}/spool/{directory}'))

    def records(self):
        """Records of the messages in the queue."""
        text = b''.join(open(f'{self.place}/spool/queue/{name}', 'rb').read() for name in self.queued())
        return re.findall(r'^Pillarbox-Log: \d+ (.*);$', text.decode(errors='replace'), re.M)

    def mail(self, user):
        new = f'{self.place}/mail/example.org/{user}/new'
        return sorted(f'{new}/{name}' for name in (os.listdir(new) if os.path.isdir(new) else []))

    def make_due(self):
        """What waits is due at the next start: its time stamp is when it is tried next."""
        self.stop()
        for name in self.queued():
            os.utime(f'{self.place}/spool/queue/{name}', (1, 1))
        self.start()


def certificate():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f'{bench}/cert.pem', f'{bench}/key.pem')
    return context


# ---- the road

def split(text):
    """Header fields from the top as (name, whole field), and what follows."""
    fields, at = [], 0
    for match in re.finditer(rb'([!-9;-~]+):[^\n]*\n(?:[ \t][^\n]*\n)*', text):
        if match.start() != at:
            break
        fields.append((match.group(1).decode().lower(), match.group(0)))
        at = match.end()
    return fields


def after_trace(text):
    """What follows the trace fields on top, down to and with the Received that Pillarbox has added; and that field."""
    at, own = 0, None
    for name, field in split(text):
        if name not in TRACE:
            break
        at += len(field)
        if b'by out.example.org' in field:
            own = field
            break
    want(own, f'no Received of the sender among the trace fields: {text[:1500]!r}')
    return text[at:], own


def dkim_key(place):
    subprocess.run(['openssl', 'genrsa', '-traditional', '-out', f'{place}/dkim.pem', '2048'], check=True, capture_output=True)
    public = subprocess.run(['openssl', 'rsa', '-in', f'{place}/dkim.pem', '-pubout', '-outform', 'DER'], check=True, capture_output=True)
    return open(f'{place}/dkim.pem', 'rb').read(), b'v=DKIM1; k=rsa; p=' + base64.b64encode(public.stdout)


def messages(key):
    line = b'0123456789abcdef' * 63
    long = HEAD + b'\r\n' + (line[:998] + b'\r\n') * 20
    signed = HEAD + b'\r\nsigned  \t before submission \r\n.dots\r\n\r\n\r\n'
    rows = {
        'plain': HEAD + b'\r\nhello\r\n',
        'octets above 127': HEAD + b'Content-Transfer-Encoding: 8bit\r\n\r\n' + bytes(range(128, 256)) + 'Grüße, 你好\r\n'.encode(),
        '20 MB': HEAD + b'\r\n' + (b'A' * 76 + b'\r\n') * 260_000,
        'lines of dots': HEAD + b'\r\n.\r\n..\r\n...\r\n.\r\n.a\r\n..b\r\n' + b'.\r\n' * 1000 + b'..\r\n.\r\n',
        'lines of 998 octets': long,
        'a header line of 998 octets': HEAD + b'X-Long: ' + line[:990] + b'\r\n\r\nx\r\n',
        'no header': b'\r\nnothing but a body\r\n',
        'no header and no empty line': b'just a few words, then no more\r\nand a second line\r\n',
        'commands as lines': HEAD + b'\r\nEHLO x\r\nMAIL FROM:<x@example.org>\r\nDATA\r\nQUIT\r\n250 ok\r\nRSET\r\nFrom alice\r\nbare words\r\n',
        'no body': HEAD + b'\r\n',
        'white space': HEAD + b'X-Folded: a\r\n\t b\r\n  c \r\n\r\n \r\n\t\r\ntrailing \t\r\n\r\n\r\n',
    }
    for canonical in b'simple', b'relaxed':
        signature = dkim.sign(signed, b'pb', b'example.org', key, canonicalize=(canonical, canonical))
        rows[f'signed before submission, {canonical.decode()}'] = signature + signed
    return rows


def arrived(mail):
    return [os.path.join(place, name) for place, _, names in os.walk(mail) if place.endswith('/new') for name in names]


def through(sender, mail, to, content, log, **options):
    """One message: the local copy and the one beyond the smarthost are equal, what the client said is in both, and the one beyond
    is signed as well, which Exim's log knows too."""
    for old in arrived(mail) + sender.mail('bob'):
        os.unlink(old)
    sender.skipped = os.path.getsize(f'{sender.place}/log')
    exim = log and signatures.EximLog(log)
    sender.submit(['bob@example.org', to], content, **options)
    until(lambda: sender.lines('sent id=') or sender.lines('failed id=') or sender.lines('deferred id='), lambda: 'no result\n' + '\n'.join(sender.lines('')[-10:]))
    want(sender.lines('sent id=', ' tls=TLSv1.'), '\n'.join(sender.lines('')[-5:]))
    until(lambda: arrived(mail), 'nothing in the Maildir beyond')
    until(lambda: not sender.queued(), 'the message stays in the queue')
    want(len(arrived(mail)) == 1, f'{len(arrived(mail))} messages beyond')
    here, beyond = (open(path, 'rb').read() for path in (sender.mail('bob')[0], arrived(mail)[0]))
    signatures.check(sender.keys, beyond.replace(b'\n', b'\r\n'))
    if exim:
        until(lambda: exim.verified(sender.keys.selectors.values()), 'Exim has not verified all signatures')
    (here, here_received), (beyond, beyond_received) = after_trace(here), after_trace(beyond)
    want(here_received == beyond_received, f'Received is {here_received!r} here, {beyond_received!r} beyond')
    want(here == beyond, f'{len(here)} octets here, {len(beyond)} beyond: {difference(here, beyond)}')
    said = content.replace(b'\r\n', b'\n')
    want(here == said or (here.endswith(said.removeprefix(b'\n')) and not content.startswith(b'From')), f'not what was said: {difference(here, said)}')


def difference(a, b):
    at = next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f'at {at} {a[max(at - 40, 0):at + 60]!r} and {b[max(at - 40, 0):at + 60]!r}'


def offers(port):
    context = ssl.create_default_context(cafile=f'{bench}/cert.pem')
    with smtplib.SMTP_SSL('localhost', port, context=context, timeout=20) as smtp:
        smtp.ehlo('client.example')
        return smtp.esmtp_features


def road(label, implicit, starttls, mail):
    key, record = dkim_key(tempfile.mkdtemp())
    offered = offers(implicit)
    log = f'{bench}/exim/var/log/exim4/mainlog' if label == 'Exim' else None
    for name, url in ('465', f'smtps://localhost:{implicit}'), ('587', f'submission://localhost:{starttls}'):
        with Sender(url) as sender:
            # The client's own key.
            sender.keys.records['pb._domainkey.example.org'] = record.decode()
            with signatures.NameServer(sender.keys.records):
                for what, content in messages(key).items():
                    case(f'{label} {name}: {what}', lambda: through(sender, mail, 'carol@elsewhere.example', content, log))
                head = HEAD.replace(b'carol', 'jürgen'.encode())
                utf8 = {'options': ('BODY=8BITMIME', 'SMTPUTF8')}
                name = f'{label} {name}: an address in UTF-8'
                if 'smtputf8' in offered:
                    case(name, lambda: through(sender, mail, 'jürgen@elsewhere.example', head + b'\r\nx\r\n', log, **utf8))
                else:
                    case(name + ', not offered', lambda: unfit(sender, head))


def unfit(sender, head):
    sender.skipped = os.path.getsize(f'{sender.place}/log')
    sender.submit(['jürgen@elsewhere.example'], head + b'\r\nx\r\n', options=('BODY=8BITMIME', 'SMTPUTF8'))
    sender.wait('failed id=')
    report = until(lambda: sender.mail('alice'), 'no report')[-1]
    want(b'5.6.7' in open(report, 'rb').read(), 'the report does not say 5.6.7')


# ---- faults

class Terminator:
    """TLS before a server that has none."""

    def __init__(self, port):
        self.inner, self.context = port, certificate()
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            client = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(('127.0.0.1', self.inner))
            threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
            self.pump(server, client)
        except OSError:
            client.close()

    @staticmethod
    def pump(source, target):
        try:
            while octets := source.recv(65536):
                target.sendall(octets)
        except OSError:
            pass
        for end in source, target:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class SmtpSink:
    """smtp-sink with these options, and what it has taken."""

    def __init__(self, *options):
        self.place = tempfile.mkdtemp(dir='/tmp')
        os.chmod(self.place, 0o777)
        port = free_port()
        command = ['smtp-sink', '-u', 'nobody', '-d', f'{self.place}/%s.', *options, f'127.0.0.1:{port}', '100']
        self.process = subprocess.Popen(command, cwd=self.place, stdout=subprocess.DEVNULL)
        self.port = Terminator(port).port
        until(lambda: socket.socket().connect_ex(('127.0.0.1', port)) == 0, 'smtp-sink does not listen')

    def taken(self):
        texts = [open(f'{self.place}/{name}', 'rb').read() for name in os.listdir(self.place)]
        return [text for text in texts if b'Message-ID' in text]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.place)


SMALL = HEAD + b'\r\nhello\r\n'
THREE = [f'{name}@elsewhere.example' for name in ('one', 'two', 'three')]


def with_sink(options, check, content=SMALL):
    def run():
        with SmtpSink(*options) as sink, Sender(f'smtps://localhost:{sink.port}', login=False) as sender:
            sender.submit(['carol@elsewhere.example'], content)
            return check(sender, sink)
    case(f'smtp-sink {" ".join(options) or "without a fault"}', run)


def is_sent(sender, sink):
    sender.wait('sent id=', 'code=250')
    until(lambda: not sender.queued(), 'it stays in the queue')
    want(len(sink.taken()) == 1, f'{len(sink.taken())} taken')
    signatures.check(sender.keys, sink.taken()[0].replace(b'\n', b'\r\n'))
    want(not sender.mail('alice'), 'a report of what was sent')


def is_returned(sender, sink):
    sender.wait('failed id=', 'to=carol@elsewhere.example', 'code=5')
    report = until(lambda: sender.mail('alice'), 'no report')[0]
    failures(report, ['carol@elsewhere.example'])
    until(lambda: not sender.queued(), 'it stays in the queue')
    want(not sender.lines('sent id='), 'said to be sent')


def waits(sender, sink):
    """Deferred as a fault of its own, with its reply; in the queue, and nobody is bothered."""
    sender.wait('deferred id=', 'code=4')
    want(len(sender.queued()) == 1 and any(' wait ' in record for record in sender.records()), f'{sender.records()}')
    want(not sender.mail('alice') and not sender.lines('failed id='), 'returned')


def rests(sender, sink):
    """A fault of the route: nothing is written of the message, and it stays."""
    sender.wait('route route=provider state=resting')
    want(len(sender.queued()) == 1, 'it is not in the queue')
    want(not [record for record in sender.records() if ' wait ' in record or ' failed ' in record], f'{sender.records()}')
    want(not sender.mail('alice') and not sender.lines('failed id='), 'returned')


def kept(sender, sink):
    """The line was cut, or 421, in the middle: the message has neither failed nor been sent."""
    until(lambda: any('begin' in record for record in sender.records()), 'no attempt')
    time.sleep(1.5)
    want(len(sender.queued()) == 1, 'it is not in the queue')
    want(not sender.mail('alice') and not sender.lines('failed id=') and not sender.lines('sent id='), 'settled')
    begins = sum(record.startswith('begin') for record in sender.records())
    want(begins <= 3, f'{begins} attempts within two seconds')


def may_have_arrived(sender, sink):
    kept(sender, sink)
    want(any(record.startswith('dot') for record in sender.records()), f'no dot: {sender.records()}')
    want(sender.lines('maybe-twice id=', 'to=carol@elsewhere.example'), 'it is not said that it may have arrived')


def failures(report, wanted):
    message = email.message_from_bytes(open(report, 'rb').read(), policy=email.policy.default)
    want(message.get_content_type() == 'multipart/report' and message['Return-Path'] == '<>', f'{message.items()}')
    found = {address.decode() for address in all_failures(message)[1]}
    want(found == set(wanted), f'the report names {found}')
    plain = next(part for part in message.walk() if part.get_content_type() == 'text/plain').get_content()
    want(all(address in plain for address in wanted), plain)


class Scripted(SMTP):
    """Per-recipient replies, 421 and cut lines, as often as is said."""

    def spend(self, what):
        if self.event_handler.script.get(what, 0) <= 0:
            return False
        self.event_handler.script[what] -= 1
        return True

    async def smtp_DATA(self, arg):
        if self.spend('421 at DATA'):
            await self.push('421 4.3.2 going down')
            return self.transport.close()
        await super().smtp_DATA(arg)


class Handler:
    def __init__(self, script):
        self.script, self.taken, self.transactions = script, [], 0

    async def handle_MAIL(self, server, session, envelope, address, options):
        if server.spend('421 at MAIL'):
            asyncio.get_running_loop().call_soon(server.transport.close)
            return '421 4.3.2 going down'
        self.transactions += 1
        envelope.mail_from = address
        return '250 2.1.0 ok'

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.script.get('550', ()):
            return '550 5.1.1 no such user'
        if len(envelope.rcpt_tos) >= self.script.get('most', 1000):
            return '452 4.5.3 too many recipients'
        envelope.rcpt_tos.append(address)
        return '250 2.1.5 ok'

    async def handle_DATA(self, server, session, envelope):
        if server.spend('421 after the dot'):
            asyncio.get_running_loop().call_soon(server.transport.close)
            return '421 4.3.2 going down'
        self.taken.append((list(envelope.rcpt_tos), envelope.content))
        if server.spend('cut after the dot'):
            server.transport.abort()
        return '250 2.0.0 taken'


class Aiosmtpd(Controller):
    def __init__(self, **script):
        self.script = Handler(script)
        accept = lambda *_: AuthResult(success=True)
        super().__init__(self.script, hostname='127.0.0.1', port=free_port(), ssl_context=certificate(), auth_required=True,
                         auth_require_tls=False, authenticator=accept, ready_timeout=20)

    def factory(self):
        return Scripted(self.handler, **self.SMTP_kwargs)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def recipients(self):
        return sorted(to for group, _ in self.script.taken for to in group)


def with_aiosmtpd(name, check, to, **script):
    def run():
        with Aiosmtpd(**script) as server, Sender(f'smtps://localhost:{server.port}') as sender:
            sender.submit(to, SMALL)
            told = check(sender, server)
            for _, content in server.script.taken:
                signatures.check(sender.keys, content)
            return told
    case(f'aiosmtpd: {name}', run)


def one_bad(sender, server):
    sender.wait('failed id=', 'to=two@elsewhere.example', 'code=550')
    sender.wait('sent id=', 'to=one@elsewhere.example,three@elsewhere.example')
    report = until(lambda: sender.mail('alice'), 'no report')
    until(lambda: not sender.queued(), 'it stays in the queue')
    failures(report[0], ['two@elsewhere.example'])
    want(len(sender.mail('alice')) == 1 and server.recipients() == [THREE[0], THREE[2]], f'{server.recipients()}')


def all_of_them(sender, server):
    until(lambda: not sender.queued(), lambda: f'left: {sender.records()}')
    want(server.recipients() == sorted(FIVE), f'{server.recipients()}')
    want(not sender.mail('alice') and not sender.lines('failed id='), 'returned')
    return f' ({server.script.transactions} transactions)'


def sent_when_due(sender, server):
    kept(sender, server)
    sender.make_due()
    until(lambda: not sender.queued(), lambda: f'left: {sender.records()}')
    want(server.recipients() == ['carol@elsewhere.example'], f'{server.recipients()}')
    want(not sender.mail('alice'), 'a report')


def twice_and_named(sender, server):
    may_have_arrived(sender, server)
    sender.make_due()
    until(lambda: not sender.queued(), lambda: f'left: {sender.records()}')
    want(server.recipients() == ['carol@elsewhere.example'] * 2, f'{server.recipients()}')


FIVE = [f'{number}@elsewhere.example' for number in 'abcde']


def faults():
    with_sink((), is_sent)
    for step in 'MAIL', 'RCPT', 'DATA', '.':
        with_sink(('-f', step), is_returned)
        with_sink(('-r', step), waits)
    for step in 'CONNECT', 'EHLO':
        with_sink(('-q', step), rests)
    with_sink(('-f', 'CONNECT'), rests)
    with_sink(('-r', 'CONNECT'), rests)
    for step in 'MAIL', 'RCPT', 'DATA':
        with_sink(('-q', step), kept)
        with_sink(('-Q', step), kept)
    with_sink(('-q', '.'), may_have_arrived)
    with_sink(('-Q', '.'), kept)
    for options in (('-W', '.:2'), ('-p', '-W', 'RCPT:1'), ('-h', 'other.example'), ('-p',), ('-8',), ('-e',), ('-E',), ('-N',)):
        with_sink(options, is_sent)
    with_sink(('-T', '1000'), is_sent, HEAD + b'\r\n' + b'a line of some length, again and again\r\n' * 20_000)
    carol = ['carol@elsewhere.example']
    with_aiosmtpd('one bad recipient of three', one_bad, THREE, **{'550': THREE[1:2]})
    with_aiosmtpd('452 after two', all_of_them, FIVE, most=2)
    with_aiosmtpd('421 at MAIL', sent_when_due, carol, **{'421 at MAIL': 1})
    with_aiosmtpd('421 at DATA', sent_when_due, carol, **{'421 at DATA': 1})
    with_aiosmtpd('421 after the dot', sent_when_due, carol, **{'421 after the dot': 1})
    with_aiosmtpd('the line is cut after the dot', twice_and_named, carol, **{'cut after the dot': 1})


if sys.argv[1] == 'road':
    label, implicit, starttls, mail = sys.argv[4:]
    road(label, int(implicit), int(starttls), mail)
else:
    faults()
