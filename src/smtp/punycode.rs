//! The ASCII form of an international domain name (RFC 5891 section 4.4), as DNS has it. Pure.
//!
//! A name is taken as it is written, in lower case: characters that look alike are not made one.

/// The name with each label that is not ASCII as `xn--` and Punycode; `None` if a label grows longer than 63 octets.
pub fn to_ascii(name: &str) -> Option<String> {
    if name.is_ascii() {
        return Some(name.to_owned());
    }
    let labels: Option<Vec<String>> = name.split('.').map(label).collect();
    labels.map(|labels| labels.join("."))
}

fn label(label: &str) -> Option<String> {
    if label.is_ascii() {
        return Some(label.to_owned());
    }
    let text = format!("xn--{}", encode(&label.to_lowercase())?);
    (text.len() <= 63).then_some(text)
}

// RFC 3492 section 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const BIAS: u32 = 72;
const FIRST: u32 = 128;

/// RFC 3492 section 6.3; `None` on overflow.
fn encode(text: &str) -> Option<String> {
    let points: Vec<u32> = text.chars().map(u32::from).collect();
    let mut out: String = text.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let (mut n, mut delta, mut bias, mut done) = (FIRST, 0u32, BIAS, basic);
    while (done as usize) < points.len() {
        let next = points.iter().copied().filter(|point| *point >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(done + 1)?)?;
        n = next;
        for point in &points {
            if *point < n {
                delta = delta.checked_add(1)?;
            }
            if *point == n {
                push_number(&mut out, delta, bias);
                bias = adapt(delta, done + 1, done == basic);
                delta = 0;
                done += 1;
            }
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(out)
}

fn push_number(out: &mut String, mut number: u32, bias: u32) {
    let digit = |value: u32| char::from_digit(if value < 26 { value + 10 } else { value - 26 }, BASE).unwrap_or('a');
    let mut k = BASE;
    loop {
        let threshold = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
        if number < threshold {
            return out.push(digit(number));
        }
        out.push(digit(threshold + (number - threshold) % (BASE - threshold)));
        number = (number - threshold) / (BASE - threshold);
        k += BASE;
    }
}

/// RFC 3492 section 6.1.
fn adapt(delta: u32, points: u32, first: bool) -> u32 {
    let mut delta = if first { delta / DAMP } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > ((BASE - T_MIN) * T_MAX) / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that registries publish, and RFC 3492 section 7.1.
    #[test]
    fn names() {
        let rows = [
            ("example.org", Some("example.org")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
            ("B\u{dc}CHER.example", Some("xn--bcher-kva.example")),
            ("m\u{fc}nchen.de", Some("xn--mnchen-3ya.de")),
            ("\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}", Some("xn--r8jz45g.xn--zckzah")),
            ("\u{4ed6}\u{4eec}\u{4e3a}\u{4ec0}\u{4e48}\u{4e0d}\u{8bf4}\u{4e2d}\u{6587}", Some("xn--ihqwcrb4cv8a8dqg056pqjye")),
            ("stra\u{df}e.example", Some("xn--strae-oqa.example")),
        ];
        for (name, want) in rows {
            assert_eq!(to_ascii(name).as_deref(), want, "{name}");
        }
        assert_eq!(to_ascii(&format!("{}\u{fc}.example", "a".repeat(62))), None);
    }
}
