//! The servers of the recipients' domains instead of a smarthost that rests.

use super::common::hop::Hop;
use super::common::mx::{MailServer, StartTls};
use super::common::network::{Network, THERE};
use super::direct::{hosts, mx, run, send, setup, there, wait, waiting};

use super::names::NameServer;

/// One message to two domains: what can go goes by MX, each domain by itself; the rest goes by the smarthost when that works again,
/// and all that comes after it in one transaction.
#[test]
fn mail_of_a_smarthost_that_rests_takes_mx() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("one.example", mx(&[(10, "a.example")])),
            ("two.example", mx(&[(10, "none.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("none.example", hosts(vec![there(2)])),
        ]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::Works);
        let hop = Hop::new();
        hop.down(true);
        let mut setup = setup(&names, &format!("{}then = \"mx\"\n", hop.route("next")));
        setup.outgoing = setup.outgoing.replacen("via = \"mx\"", "via = \"next\"", 1);
        let server = setup.start();
        let id = send(&server, &["x@one.example", "z@TWO.example", "y@one.example"]);
        assert_eq!(a.wait(1)[0].rcpt, ["RCPT TO:<x@one.example>", "RCPT TO:<y@one.example>"]);
        server.wait_for_log(&["route", "route=two.example", "state=resting"]);
        server.wait_for_log(&["sent", &format!("id={id}"), "to=x@one.example", "host=a.example[203.0.113.11]"]);
        let explained =
            run(&server, &["explain", "--login", "alice@example.org", "--from", "alice@example.org", "--to", "z@two.example"]);
        assert!(explained.contains("while it rests: mx"), "{explained}");
        let shown = run(&server, &["queue", "show", &id]);
        assert!(shown.contains("two.example"), "{shown}");

        hop.down(false);
        run(&server, &["routes", "try", "next"]);
        let taken = hop.wait_for_messages(1);
        assert_eq!(taken[0].rcpt, ["RCPT TO:<z@two.example>"]);
        wait(|| waiting(&server) == 0, || server.log_text());
        send(&server, &["x@one.example", "z@two.example"]);
        assert_eq!(hop.wait_for_messages(2)[1].rcpt.len(), 2);
        wait(|| waiting(&server) == 0, || server.log_text());
        assert_eq!((a.taken().len(), hop.taken_count()), (1, 2));
    });
}
