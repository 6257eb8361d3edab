//! Messages with something odd about each.

/// What is odd about them, and their text with LF; they are from alice@example.org.
pub fn messages() -> Vec<(&'static str, Vec<u8>)> {
    const HEAD: &str =
        "From: alice@example.org\nTo: bob@example.org\nDate: Mon, 23 Nov 2026 12:00:00 +0000\nMessage-ID: <m@example.org>\n";
    let with = |rest: &[u8]| [HEAD.as_bytes(), rest].concat();
    vec![
        ("plain", with(b"Subject: plain\n\nhello\n")),
        (
            "eight-bit",
            with(
                "Subject: 8bit\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\ngrün, Ωμέγα\n"
                    .as_bytes(),
            ),
        ),
        ("dots", with(b"Subject: dots\n\n.\n..\n...\n.a\n..b\n\n.\nend\n")),
        ("empty body", with(b"Subject: empty\n\n")),
        ("long lines", with(format!("Subject: long\n\n{}\n", "x".repeat(990)).as_bytes())),
    ]
}
