//! Connections: how they come in, how many a network may hold, and how octets cross them under deadlines.
//!
//! Nothing here knows what the octets mean beyond lines and octet counts. The acceptors never do TLS and never block
//! on a client; every wait of a worker has a deadline that sits beneath TLS.

pub mod admission;
pub mod connector;
pub mod deadline;
pub mod dial;
pub mod eviction;
pub mod handover;
pub mod history;
pub mod listener;
pub mod local;
pub mod memory;
pub mod network;
pub mod outbound;
pub mod pool;
mod slices;
pub mod slot;
pub mod stop;
pub mod stream;
pub mod tls;
pub mod waiting;
pub mod wire;
