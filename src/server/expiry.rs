//! How long a certificate is still good.

use std::time::SystemTime;

use crate::net::tls::TlsServer;

/// Days of a certificate below which there is a warning.
pub const DAYS_MIN: u64 = 14;

const DAY: u64 = 24 * 60 * 60;

/// Whole days left at `now`; `None` inside once it has expired, and outside if the certificate does not say.
pub fn days_left(tls: &TlsServer, now: SystemTime) -> Option<Option<u64>> {
    let end = tls.not_after()?;
    Some(end.duration_since(now).ok().map(|left| left.as_secs() / DAY))
}

/// What an operator should know of a certificate that nears its end; `serve` looks daily.
pub fn warning(tls: &TlsServer) -> Option<String> {
    warning_at(days_left(tls, SystemTime::now()))
}

fn warning_at(left: Option<Option<u64>>) -> Option<String> {
    match left? {
        None => Some("the certificate has expired; renew it".to_owned()),
        Some(days) if days < DAYS_MIN => Some(format!("the certificate has {days} days left; renew it")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_is_said_two_weeks_before() {
        let pair = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let tls = TlsServer::from_pem((Path::new("c"), certificate.as_bytes()), (Path::new("k"), key.as_bytes())).unwrap();
        let end = tls.not_after().unwrap();
        let at = |days: u64| warning_at(days_left(&tls, end - Duration::from_secs(days * DAY + 60)));
        assert_eq!(at(14), None);
        assert_eq!(at(13).unwrap(), "the certificate has 13 days left; renew it");
        assert!(warning_at(days_left(&tls, end + Duration::from_secs(1))).unwrap().contains("expired"));
    }
}
