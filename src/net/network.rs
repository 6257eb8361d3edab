//! What counts as one client: an IPv4 address, an IPv6 /64, or a user of this machine on a local socket.
//!
//! Limits, eviction and the counting of failed logins go by it. A /64 is what one customer of a provider has at least. All of
//! fe80::/64 is one network, so all hosts of a link that use link-local addresses are; and where a proxy hands connections on
//! (Docker's user-land proxy), all clients have its address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u128);

impl Network {
    /// The network of an address; an IPv4 address mapped into IPv6 counts as what it is.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() & !u128::from(u64::MAX)),
        }
    }
}

/// The address that stands for a user of this machine wherever clients are told apart by address: each uid has a /64 of its own
/// in 100:0::/32, which is not routed and so is no client's.
pub fn address_of_uid(uid: u32) -> SocketAddr {
    let [high, low] = [(uid >> 16) as u16, uid as u16];
    SocketAddr::new(Ipv6Addr::new(LOCAL, 0, high, low, 0, 0, 0, 1).into(), 0)
}

/// The uid that an address stands for.
pub fn uid_of_address(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [LOCAL, 0, high, low, 0, 0, 0, 1] => Some(u32::from(high) << 16 | u32::from(low)),
            _ => None,
        },
        IpAddr::V4(_) => None,
    }
}

const LOCAL: u16 = 0x100;

/// The network's first address.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::V6(Ipv6Addr::from_bits(self.0)).to_canonical().fmt(f)
    }
}

/// From any address of the network.
impl FromStr for Network {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_of_this_machine_is_a_network() {
        for uid in [0, 33, 1000, 65_534, 65_536, u32::MAX] {
            let address = address_of_uid(uid).ip();
            assert_eq!(uid_of_address(address), Some(uid));
            assert!(matches!(address, IpAddr::V6(v6) if v6.segments()[..2] == [0x100, 0]), "the log counts no /48 there");
            assert_ne!(Network::of(address), Network::of(address_of_uid(uid ^ 1).ip()));
            assert_eq!(Network::of(address).to_string().parse::<Network>().unwrap(), Network::of(address), "over a restart");
        }
        for other in ["100::2", "::1", "10.0.0.1", "100:1::1", "2001:db8::1"] {
            assert_eq!(uid_of_address(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn networks() {
        let same = [("10.0.0.1", "::ffff:10.0.0.1"), ("2001:db8::1", "2001:db8::ffff:1:2:3")];
        for (a, b) in same {
            assert_eq!(a.parse::<Network>(), b.parse::<Network>(), "{a} {b}");
        }
        let other = [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("::1", "0.0.0.1")];
        for (a, b) in other {
            assert_ne!(a.parse::<Network>(), b.parse::<Network>(), "{a} {b}");
        }
        for text in ["10.0.0.1", "2001:db8::", "::"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
    }
}
