//! Reports, standings, claims: their generated form and back, every field checked.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use libp2p_identity::PeerId;

use super::{SessionMessage, WireError, bits, bits_to_wire, digest, generated, origin};
use crate::chunk::ChunkLayout;
use crate::swarm::lease::{Lease, LeaseEnd, MAX_RETRY_AFTER};
use crate::swarm::message::{
    Claim, ClaimAnswer, Ended, MAX_FETCHERS, MAX_NAMED, MAX_NUMBER, MAX_ROUND, MAX_UNREACHABLE, Membership,
    Report, Standing, SwarmKey,
};
use crate::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use crate::transfer::Availability;

/// Where peers can be reached, as another peer says: multiaddrs as text.
pub type Whereabouts = BTreeMap<PeerId, Vec<String>>;

/// The most addresses of one peer.
const MAX_ADDRESSES: usize = 4;
/// The longest address as text, in bytes.
const MAX_ADDRESS: usize = 256;
/// The most leases in one claim: well above what any home grants at once.
const MAX_LEASES: usize = 64;

fn peer(bytes: &[u8]) -> Result<PeerId, WireError> {
    PeerId::from_bytes(bytes).map_err(|_| WireError::Field("peer"))
}

fn key(multihash: &[u8], size: u64, round: u32, asked: &[u8]) -> Result<(SwarmKey, ChunkLayout), WireError> {
    if round > MAX_ROUND {
        return Err(WireError::Field("round"));
    }
    let layout = ChunkLayout::of(size).map_err(|_| WireError::Field("size"))?;
    Ok((SwarmKey { digest: digest(multihash)?, size, round, origin: origin(asked)? }, layout))
}

/// A term, or the number of a lease.
fn number(number: u64, field: &'static str) -> Result<u64, WireError> {
    if number <= MAX_NUMBER { Ok(number) } else { Err(WireError::Field(field)) }
}

fn lease(lease: &generated::Lease, layout: Option<ChunkLayout>) -> Result<Lease, WireError> {
    let most = layout.map_or(u32::MAX, |layout| layout.count());
    if lease.first >= lease.end || lease.end > most {
        return Err(WireError::Field("lease"));
    }
    let (epoch, id) = (number(lease.epoch, "epoch")?, number(lease.id, "lease")?);
    Ok(Lease { epoch, id, chunks: lease.first..lease.end })
}

fn lease_to_wire(lease: &Lease) -> generated::Lease {
    generated::Lease { epoch: lease.epoch, id: lease.id, first: lease.chunks.start, end: lease.chunks.end }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// How a lease or turn ended. What upstream asked for is bounded here: another node may say anything.
fn outcome(outcome: i32, status: u32, retry_after_ms: u64) -> Result<Option<LeaseEnd>, WireError> {
    use generated::LeaseOutcome as Wire;
    let status = match status {
        0 => None,
        100..=599 => u16::try_from(status).ok(),
        _ => return Err(WireError::Field("status")),
    };
    let wish = Duration::from_millis(retry_after_ms).min(MAX_RETRY_AFTER);
    Ok(match Wire::try_from(outcome).map_err(|_| WireError::Field("outcome"))? {
        Wire::Unspecified => None,
        Wire::Done => Some(LeaseEnd::Done),
        Wire::Refused => Some(LeaseEnd::Refused { status }),
        Wire::Trouble => {
            Some(LeaseEnd::Trouble { status, retry_after: Some(wish).filter(|wish| !wish.is_zero()) })
        }
    })
}

/// The outcome, upstream's status, and the milliseconds of its `Retry-After`.
fn outcome_to_wire(end: LeaseEnd) -> (i32, u32, u64) {
    use generated::LeaseOutcome as Wire;
    match end {
        LeaseEnd::Done => (Wire::Done.into(), 0, 0),
        LeaseEnd::Refused { status } => (Wire::Refused.into(), status.unwrap_or(0).into(), 0),
        LeaseEnd::Trouble { status, retry_after } => {
            let wish = retry_after.map_or(0, millis);
            (Wire::Trouble.into(), status.unwrap_or(0).into(), wish.into())
        }
    }
}

fn named(named: Vec<generated::Named>, whereabouts: &mut Whereabouts) -> Result<Vec<PeerId>, WireError> {
    if named.len() > MAX_NAMED {
        return Err(WireError::Field("members"));
    }
    named.into_iter().map(|one| name(one, whereabouts)).collect()
}

fn name(named: generated::Named, whereabouts: &mut Whereabouts) -> Result<PeerId, WireError> {
    let peer = peer(&named.peer)?;
    if named.addresses.len() > MAX_ADDRESSES
        || named.addresses.iter().any(|address| address.len() > MAX_ADDRESS)
    {
        return Err(WireError::Field("addresses"));
    }
    if !named.addresses.is_empty() {
        whereabouts.insert(peer, named.addresses);
    }
    Ok(peer)
}

fn name_to_wire(peer: PeerId, whereabouts: &Whereabouts) -> generated::Named {
    let addresses = whereabouts.get(&peer).into_iter().flatten();
    let short = addresses.filter(|address| address.len() <= MAX_ADDRESS);
    generated::Named { peer: peer.to_bytes().into(), addresses: short.take(MAX_ADDRESSES).cloned().collect() }
}

pub(super) fn report(report: &generated::Report) -> Result<SessionMessage, WireError> {
    use generated::Holding as Wire;
    let (key, layout) = key(&report.digest, report.size, report.round, &report.origin)?;
    let have = match Wire::try_from(report.holding).map_err(|_| WireError::Field("holding"))? {
        Wire::Complete => Availability::Complete,
        Wire::Partial => Availability::Partial(bits(&report.chunks, layout)?),
        Wire::None => return Err(WireError::Field("holding")),
    };
    if report.unreachable.len() > MAX_UNREACHABLE {
        return Err(WireError::Field("unreachable"));
    }
    let ended = match &report.ended {
        None => None,
        Some(end) => Some(Ended {
            epoch: number(end.epoch, "epoch")?,
            id: number(end.id, "ended")?,
            how: outcome(end.outcome, end.status, end.retry_after_ms)?.ok_or(WireError::Field("outcome"))?,
        }),
    };
    if report.wants.is_some_and(|chunk| chunk >= layout.count()) {
        return Err(WireError::Field("wants"));
    }
    let said = Report {
        have,
        wants: report.wants,
        can_fetch: report.can_fetch,
        lease: report.lease.as_ref().map(|held| lease(held, Some(layout))).transpose()?,
        ended,
        whole: report.whole,
        unreachable: report.unreachable.iter().map(|lost| peer(lost)).collect::<Result<_, _>>()?,
        leaving: report.leaving,
    };
    Ok(SessionMessage::Report(key, said))
}

pub(super) fn report_to_wire(key: &SwarmKey, report: &Report) -> generated::Report {
    use generated::Holding as Wire;
    let (holding, chunks) = match &report.have {
        Availability::Complete => (Wire::Complete, Bytes::new()),
        Availability::Partial(chunks) => (Wire::Partial, bits_to_wire(chunks)),
    };
    let ended = report.ended.map(|ended| {
        let (outcome, status, retry_after_ms) = outcome_to_wire(ended.how);
        generated::LeaseEnd { epoch: ended.epoch, id: ended.id, outcome, status, retry_after_ms }
    });
    generated::Report {
        digest: key.digest.multihash().into(),
        size: key.size,
        holding: holding.into(),
        chunks,
        can_fetch: report.can_fetch,
        lease: report.lease.as_ref().map(lease_to_wire),
        ended,
        whole: report.whole,
        unreachable: report.unreachable.iter().map(|lost| lost.to_bytes().into()).collect(),
        leaving: report.leaving,
        round: key.round,
        origin: key.origin.as_bytes().to_vec().into(),
        wants: report.wants,
    }
}

pub(super) fn standing(standing: generated::Standing) -> Result<SessionMessage, WireError> {
    let mut whereabouts = Whereabouts::new();
    let said = if let Some(home) = standing.elsewhere {
        Standing::Elsewhere(name(home, &mut whereabouts)?)
    } else if standing.wait_ms > 0 {
        Standing::Wait(Duration::from_millis(standing.wait_ms.into()))
    } else if standing.fetchers.len() > MAX_FETCHERS {
        return Err(WireError::Field("fetchers"));
    } else {
        Standing::Member(Membership {
            epoch: number(standing.epoch, "epoch")?,
            members: named(standing.members, &mut whereabouts)?,
            // The member's own core holds it against its layout.
            lease: standing.lease.map(|held| lease(&held, None)).transpose()?,
            fetchers: standing.fetchers.iter().map(|sent| peer(sent)).collect::<Result<_, _>>()?,
            hopeless: outcome(standing.hopeless, standing.hopeless_status, standing.hopeless_retry_after_ms)?,
            again: (standing.again_ms > 0).then(|| Duration::from_millis(standing.again_ms.into())),
        })
    };
    Ok(SessionMessage::Standing(said, whereabouts))
}

pub(super) fn standing_to_wire(standing: Standing, whereabouts: &Whereabouts) -> generated::Standing {
    let mut wire = generated::Standing::default();
    match standing {
        Standing::Elsewhere(home) => wire.elsewhere = Some(name_to_wire(home, whereabouts)),
        Standing::Wait(time) => wire.wait_ms = millis(time).max(1),
        Standing::Member(membership) => {
            wire.epoch = membership.epoch;
            let members = membership.members.into_iter().take(MAX_NAMED);
            wire.members = members.map(|member| name_to_wire(member, whereabouts)).collect();
            wire.lease = membership.lease.as_ref().map(lease_to_wire);
            let fetchers = membership.fetchers.into_iter().take(MAX_FETCHERS);
            wire.fetchers = fetchers.map(|sent| sent.to_bytes().into()).collect();
            (wire.hopeless, wire.hopeless_status, wire.hopeless_retry_after_ms) =
                membership.hopeless.map(outcome_to_wire).unwrap_or_default();
            wire.again_ms = membership.again.map_or(0, |again| millis(again).max(1));
        }
    }
    wire
}

pub(super) fn claim(claim: generated::Claim) -> Result<SessionMessage, WireError> {
    let (key, layout) = key(&claim.digest, claim.size, claim.round, &claim.origin)?;
    if claim.leases.len() > MAX_LEASES {
        return Err(WireError::Field("leases"));
    }
    let held = |held: generated::HeldLease| {
        let granted = held.lease.ok_or(WireError::Field("lease"))?;
        Ok((peer(&held.holder)?, lease(&granted, Some(layout))?))
    };
    let leases = claim.leases.into_iter().map(held).collect::<Result<_, WireError>>()?;
    Ok(SessionMessage::Claim(key, Claim { epoch: number(claim.epoch, "epoch")?, leases }))
}

pub(super) fn claim_to_wire(key: &SwarmKey, claim: Claim) -> generated::Claim {
    let held = |(holder, lease): (PeerId, Lease)| generated::HeldLease {
        holder: holder.to_bytes().into(),
        lease: Some(lease_to_wire(&lease)),
    };
    generated::Claim {
        digest: key.digest.multihash().into(),
        size: key.size,
        round: key.round,
        origin: key.origin.as_bytes().to_vec().into(),
        epoch: claim.epoch,
        leases: claim.leases.into_iter().take(MAX_LEASES).map(held).collect(),
    }
}

pub(super) fn claim_answer(answer: generated::ClaimAnswer) -> Result<SessionMessage, WireError> {
    let mut whereabouts = Whereabouts::new();
    let epoch = number(answer.epoch, "epoch")?;
    let said = match answer.held_by {
        Some(home) => ClaimAnswer::HeldBy { home: name(home, &mut whereabouts)?, epoch },
        None => ClaimAnswer::Granted { epoch, providers: named(answer.providers, &mut whereabouts)? },
    };
    Ok(SessionMessage::ClaimAnswer(said, whereabouts))
}

pub(super) fn claim_answer_to_wire(answer: ClaimAnswer, whereabouts: &Whereabouts) -> generated::ClaimAnswer {
    match answer {
        ClaimAnswer::HeldBy { home, epoch } => generated::ClaimAnswer {
            held_by: Some(name_to_wire(home, whereabouts)),
            epoch,
            providers: Vec::new(),
        },
        ClaimAnswer::Granted { epoch, providers } => generated::ClaimAnswer {
            held_by: None,
            epoch,
            providers: providers
                .into_iter()
                .take(MAX_NAMED)
                .map(|provider| name_to_wire(provider, whereabouts))
                .collect(),
        },
    }
}

pub(super) fn ask_turn(ask: &generated::AskTurn) -> Result<SessionMessage, WireError> {
    if ask.lost.len() > MAX_UNREACHABLE {
        return Err(WireError::Field("lost"));
    }
    Ok(SessionMessage::AskTurn(AskTurn {
        key: digest(&ask.key)?,
        fresh: Duration::from_millis(ask.fresh_ms.into()),
        lost: ask.lost.iter().map(|lost| peer(lost)).collect::<Result<_, _>>()?,
    }))
}

pub(super) fn ask_turn_to_wire(ask: &AskTurn) -> generated::AskTurn {
    generated::AskTurn {
        key: ask.key.multihash().into(),
        fresh_ms: millis(ask.fresh),
        lost: ask.lost.iter().take(MAX_UNREACHABLE).map(|lost| lost.to_bytes().into()).collect(),
    }
}

pub(super) fn turn_answer(answer: generated::TurnAnswer) -> Result<SessionMessage, WireError> {
    let mut whereabouts = Whereabouts::new();
    let said = if let Some(by) = answer.done {
        TurnAnswer::Done(name(by, &mut whereabouts)?)
    } else if let Some(home) = answer.elsewhere {
        TurnAnswer::Elsewhere(name(home, &mut whereabouts)?)
    } else if let Some(how) = outcome(answer.failed, answer.status, answer.retry_after_ms)? {
        TurnAnswer::Failed(how)
    } else if answer.go > 0 {
        TurnAnswer::Go(answer.go)
    } else if answer.wait {
        TurnAnswer::Wait
    } else {
        return Err(WireError::Field("go"));
    };
    Ok(SessionMessage::TurnAnswer(said, whereabouts))
}

pub(super) fn turn_answer_to_wire(answer: TurnAnswer, whereabouts: &Whereabouts) -> generated::TurnAnswer {
    let mut wire = generated::TurnAnswer::default();
    match answer {
        TurnAnswer::Go(number) => wire.go = number,
        TurnAnswer::Wait => wire.wait = true,
        TurnAnswer::Done(by) => wire.done = Some(name_to_wire(by, whereabouts)),
        TurnAnswer::Elsewhere(home) => wire.elsewhere = Some(name_to_wire(home, whereabouts)),
        TurnAnswer::Failed(how) => {
            (wire.failed, wire.status, wire.retry_after_ms) = outcome_to_wire(how);
        }
    }
    wire
}

pub(super) fn turn_ended(ended: &generated::TurnEnded) -> Result<SessionMessage, WireError> {
    let how =
        outcome(ended.outcome, ended.status, ended.retry_after_ms)?.ok_or(WireError::Field("outcome"))?;
    Ok(SessionMessage::TurnEnded(TurnEnded { key: digest(&ended.key)?, number: ended.number, how }))
}

pub(super) fn turn_ended_to_wire(ended: &TurnEnded) -> generated::TurnEnded {
    let (outcome, status, retry_after_ms) = outcome_to_wire(ended.how);
    let key = ended.key.multihash().into();
    generated::TurnEnded { key, number: ended.number, outcome, status, retry_after_ms }
}
