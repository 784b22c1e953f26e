//! One connection's streams: negotiated here, used elsewhere.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};
use shoal_proto::wire::{CHUNK_PROTOCOL, SESSION_PROTOCOL};
use tokio::sync::{mpsc, oneshot};

use super::{Inbound, Kind, OpenError, Wanted};

/// How long a peer may take to agree on a protocol.
const NEGOTIATION: Duration = Duration::from_secs(5);

impl Kind {
    const fn protocol(self) -> StreamProtocol {
        match self {
            Self::Session => StreamProtocol::new(SESSION_PROTOCOL),
            Self::Chunks => StreamProtocol::new(CHUNK_PROTOCOL),
        }
    }
}

/// The protocols spoken to peers, or the one wanted now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocols(Option<Kind>);

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let kinds = self.0.map_or_else(|| vec![Kind::Session, Kind::Chunks], |kind| vec![kind]);
        kinds.into_iter().map(Kind::protocol).collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = (Stream, Kind);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        let kind = if protocol.as_ref() == SESSION_PROTOCOL { Kind::Session } else { Kind::Chunks };
        ready(Ok((stream, kind)))
    }
}

impl OutboundUpgrade<Stream> for Protocols {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Handler {
    peer: PeerId,
    inbound: mpsc::Sender<Inbound>,
    wanted: VecDeque<Wanted>,
}

impl Handler {
    pub(super) fn new(peer: PeerId, inbound: mpsc::Sender<Inbound>) -> Self {
        Self { peer, inbound, wanted: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Wanted;
    type ToBehaviour = Infallible;
    type InboundProtocol = Protocols;
    type OutboundProtocol = Protocols;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, OpenError>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols(None), ()).with_timeout(NEGOTIATION)
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, wanted: Wanted) {
        self.wanted.push_back(wanted);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Protocols, Protocols, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, kind),
                ..
            }) => {
                // A queue that is full means that this node is flooded: the stream is dropped, which resets it,
                // and the peer goes elsewhere.
                let sent = self.inbound.try_send(Inbound { peer: self.peer, kind, stream });
                if sent.is_err() {
                    tracing::debug!(peer = %self.peer, "too many new streams: one is refused");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // Whoever wanted it may have given up: the stream is then dropped.
                drop(info.send(Ok(protocol)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => OpenError::Closed,
                };
                drop(info.send(Err(error)));
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Protocols, Self::OutboundOpenInfo, Infallible>> {
        while let Some(Wanted { kind, reply }) = self.wanted.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let protocol = SubstreamProtocol::new(Protocols(Some(kind)), reply).with_timeout(NEGOTIATION);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        // The swarm polls again after it told this handler something.
        Poll::Pending
    }
}
