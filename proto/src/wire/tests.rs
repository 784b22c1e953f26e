//! Golden vectors, round trips and hostile input of the wire format.

use super::*;
use crate::origin::Origin;
use crate::tag::TagMapping;
use crate::verdict::{Object, Reader, Verdict};
use libp2p_identity::Keypair;
use proptest::prelude::*;

fn layout_bits(size: u64, ones: &[usize]) -> FixedBitSet {
    let mut bits = FixedBitSet::with_capacity(ChunkLayout::of(size).unwrap().count() as usize);
    bits.extend(ones.iter().copied());
    bits
}

#[test]
fn golden_chunk_request() {
    // What is on the wire is a promise to older and newer nodes: this vector may not change within version 1.
    let (digest, origin) = (Digest::sha256_of(b""), Origin::from_bytes([7; 16]));
    let request = ChunkRequest { id: 7, digest, size: 1_000_000, chunk: 3, origin };
    let mut frame = BytesMut::new();
    encode_frame(&request.into_wire(0), &mut frame);
    assert_eq!(
        hex::encode(&frame),
        "3e080712221220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85518c0843d20032a1007070707070707\
         070707070707070707"
    );
}

#[test]
fn session_messages_round_trip() {
    let keypair = Keypair::ed25519_from_bytes([3; 32]).unwrap();
    let scope = Scope { registry: "docker.io".parse().unwrap(), repository: "a/b".parse().unwrap() };
    let mapping = TagMapping {
        scope: scope.clone(),
        tag: "x".parse().unwrap(),
        digest: Digest::sha256_of(b"m"),
        size: 3,
        media_type: "t".into(),
        public: true,
        checked_unix_ms: 5,
    };
    let question =
        |reader| Question { scope: scope.clone(), object: Object::Blob(Digest::sha256_of(b"b")), reader };
    let verdict = Verdict { question: question(Reader::Everyone), checked_unix_ms: 6 };
    for message in [
        SessionMessage::AskBlob(AskBlob {
            digest: Digest::sha256_of(b"x"),
            following: None,
            round: 0,
            origin: Origin::from_bytes([7; 16]),
        }),
        SessionMessage::AskBlob(AskBlob {
            digest: Digest::sha256_of(b"x"),
            following: Some(7),
            round: 2,
            origin: Origin::from_bytes([8; 16]),
        }),
        SessionMessage::Blob(Holding::None),
        SessionMessage::Blob(Holding::Complete { size: 12 }),
        SessionMessage::Blob(Holding::Partial {
            size: 3_000_000,
            chunks: layout_bits(3_000_000, &[0, 9, 11]),
        }),
        SessionMessage::AskVerdict(question(Reader::Everyone)),
        SessionMessage::AskVerdict(question(Reader::Cluster)),
        SessionMessage::AskVerdict(question(Reader::Client([9; 32]))),
        SessionMessage::Verdict(None),
        SessionMessage::Verdict(Some(verdict.sign(&keypair).unwrap())),
        SessionMessage::AskTag(scope.clone(), "x".parse().unwrap(), None),
        SessionMessage::AskTag(scope.clone(), "x".parse().unwrap(), Some(Digest::sha256_of(b"k"))),
        SessionMessage::Tag(vec![mapping.sign(&keypair).unwrap()]),
    ] {
        let mut frame = BytesMut::new();
        encode_frame(&message.clone().into_wire(9), &mut frame);
        let decoded = decode_frame(&mut frame).unwrap().unwrap();
        assert_eq!(SessionMessage::from_wire(decoded), Ok((9, message)));
        assert!(frame.is_empty());
    }
}

#[test]
fn frames_are_bounded_before_they_are_awaited() {
    let mut frame = BytesMut::new();
    prost::encoding::encode_varint(MAX_MESSAGE as u64 + 1, &mut frame);
    assert_eq!(decode_frame::<generated::Hello>(&mut frame), Err(WireError::TooLong(MAX_MESSAGE as u64 + 1)));
    let mut endless = BytesMut::from(&[0xff; 4][..]);
    assert_eq!(decode_frame::<generated::Hello>(&mut endless), Err(WireError::Length));
    let mut short = BytesMut::from(&[5, 1][..]);
    assert_eq!(decode_frame::<generated::Hello>(&mut short), Ok(None));
}

#[test]
fn fields_out_of_bounds_are_named() {
    let request = generated::ChunkRequest {
        id: 0,
        digest: Digest::sha256_of(b"").multihash().into(),
        size: 10,
        chunk: 1,
        origin: vec![0; 16].into(),
        received: 0,
    };
    assert_eq!(ChunkRequest::from_wire(&request), Err(WireError::Field("chunk")));
    assert_eq!(ChunkRequest::from_wire(&received(3)), Ok((3, None)));
    assert_eq!(ChunkRequest::from_wire(&received(0)), Err(WireError::Field("chunk")), "it says nothing");
    let of_no_registry = generated::ChunkRequest { chunk: 0, origin: vec![0; 15].into(), ..request.clone() };
    assert_eq!(ChunkRequest::from_wire(&of_no_registry), Err(WireError::Field("origin")));
    let request = generated::ChunkRequest { size: u64::MAX, ..request };
    assert_eq!(ChunkRequest::from_wire(&request), Err(WireError::Field("size")));

    let reply = generated::ChunkReply { id: 0, status: 1, attestation: None, length: 4_000_000_000 };
    assert_eq!(ChunkReply::from_wire(&reply, 10), Err(WireError::Field("length")));
    let reply = generated::ChunkReply { length: 10, ..reply };
    assert_eq!(ChunkReply::from_wire(&reply, 10), Err(WireError::Field("attestation")));

    let answer = generated::BlobAnswer { holding: 1, size: 1 << 40, chunks: Bytes::new() };
    assert_eq!(holding(&answer), Err(WireError::Field("chunks")));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = decode_frame::<generated::SessionMessage>(&mut buffer) {
            drop(SessionMessage::from_wire(message));
        }
        if let Ok(reply) = generated::ChunkReply::decode(&bytes[..]) {
            drop(ChunkReply::from_wire(&reply, 100));
        }
        if let Ok(request) = generated::ChunkRequest::decode(&bytes[..]) {
            drop(ChunkRequest::from_wire(&request));
        }
    }
}

#[test]
fn what_swarms_say_round_trips() {
    use crate::swarm::lease::{Lease, LeaseEnd};
    use crate::swarm::message::{Ended, Membership};
    use crate::swarm::test_peer;
    use crate::transfer::Availability;
    use std::time::Duration;

    let first = SwarmKey::first(Digest::sha256_of(b"x"), 3_000_000, Origin::from_bytes([7; 16]));
    let key = SwarmKey { round: 1, ..first };
    let lease = Lease { epoch: 3, id: 4, chunks: 2..7 };
    let report = Report {
        have: Availability::Partial(layout_bits(3_000_000, &[1, 11])),
        wants: Some(5),
        can_fetch: true,
        lease: Some(lease.clone()),
        ended: Some(Ended {
            epoch: 3,
            id: 3,
            how: LeaseEnd::Trouble { status: Some(503), retry_after: Some(Duration::from_secs(7)) },
        }),
        whole: true,
        unreachable: vec![test_peer(1)],
        leaving: false,
    };
    let complete = Report { have: Availability::Complete, lease: None, ended: None, ..report.clone() };
    let place = Membership {
        epoch: 9,
        members: vec![test_peer(1), test_peer(2)],
        lease: Some(lease.clone()),
        fetchers: vec![test_peer(3)],
        hopeless: Some(LeaseEnd::Trouble { status: Some(429), retry_after: Some(Duration::from_mins(1)) }),
        again: Some(Duration::from_millis(100)),
    };
    let addresses = Whereabouts::from([(test_peer(1), vec!["/ip4/10.0.0.1/tcp/5056".to_owned()])]);
    let nowhere = Whereabouts::new;
    for message in [
        SessionMessage::Report(key, report),
        SessionMessage::Report(key, complete),
        SessionMessage::Standing(Standing::Member(place), addresses.clone()),
        SessionMessage::Standing(Standing::Elsewhere(test_peer(1)), addresses.clone()),
        SessionMessage::Standing(Standing::Wait(Duration::from_millis(250)), nowhere()),
        SessionMessage::Claim(key, Claim { epoch: 2, leases: vec![(test_peer(3), lease)] }),
        SessionMessage::ClaimAnswer(
            ClaimAnswer::Granted { epoch: 1, providers: vec![test_peer(1)] },
            addresses.clone(),
        ),
        SessionMessage::ClaimAnswer(ClaimAnswer::HeldBy { home: test_peer(1), epoch: 5 }, addresses.clone()),
        SessionMessage::AskTurn(AskTurn {
            key: key.digest,
            fresh: Duration::from_secs(5),
            lost: vec![test_peer(2)],
        }),
        SessionMessage::TurnAnswer(TurnAnswer::Go(3), nowhere()),
        SessionMessage::TurnAnswer(TurnAnswer::Done(test_peer(1)), addresses.clone()),
        SessionMessage::TurnAnswer(TurnAnswer::Elsewhere(test_peer(1)), addresses),
        SessionMessage::TurnAnswer(TurnAnswer::Failed(LeaseEnd::Refused { status: Some(403) }), nowhere()),
        SessionMessage::TurnEnded(TurnEnded { key: key.digest, number: 3, how: LeaseEnd::Done }),
        SessionMessage::Heard,
    ] {
        let wire = message.clone().into_wire(1);
        assert_eq!(SessionMessage::from_wire(wire), Ok((1, message)));
    }
}

#[test]
fn reports_out_of_bounds_are_refused() {
    let good = generated::Report {
        digest: Digest::sha256_of(b"x").multihash().into(),
        size: 3_000_000,
        holding: generated::Holding::Partial.into(),
        chunks: Bytes::from_static(&[0, 0]),
        origin: Bytes::from_static(&[7; 16]),
        ..Default::default()
    };
    let wrap = |report| generated::SessionMessage {
        id: 1,
        body: Some(generated::session_message::Body::Report(report)),
    };
    assert!(SessionMessage::from_wire(wrap(good.clone())).is_ok());
    let lease = |first, end| Some(generated::Lease { epoch: 1, id: 1, first, end });
    for (bad, field) in [
        (generated::Report { chunks: Bytes::from_static(&[0]), ..good.clone() }, "chunks"),
        (generated::Report { holding: 0, ..good.clone() }, "holding"),
        (generated::Report { size: u64::MAX, ..good.clone() }, "size"),
        (generated::Report { origin: Bytes::from_static(&[7; 17]), ..good.clone() }, "origin"),
        (generated::Report { lease: lease(3, 3), ..good.clone() }, "lease"),
        (generated::Report { lease: lease(0, 13), ..good.clone() }, "lease"),
        (generated::Report { wants: Some(12), ..good.clone() }, "wants"),
        (generated::Report { unreachable: vec![Bytes::new(); 9], ..good.clone() }, "unreachable"),
        (generated::Report { unreachable: vec![Bytes::from_static(b"?")], ..good }, "peer"),
    ] {
        assert_eq!(SessionMessage::from_wire(wrap(bad)), Err(WireError::Field(field)));
    }
}

#[test]
fn numbers_that_nobody_counts_to_are_refused() {
    use crate::swarm::message::MAX_NUMBER;
    let (digest, origin) = (Bytes::from(Digest::sha256_of(b"x").multihash()), Bytes::from_static(&[7; 16]));
    let lease = |epoch, id| Some(generated::Lease { epoch, id, first: 0, end: 1 });
    let report = |lease| generated::Report {
        digest: digest.clone(),
        size: 1000,
        holding: generated::Holding::Complete.into(),
        lease,
        origin: origin.clone(),
        ..generated::Report::default()
    };
    assert!(swarm::report(&report(lease(MAX_NUMBER, MAX_NUMBER))).is_ok());
    assert_eq!(swarm::report(&report(lease(MAX_NUMBER + 1, 0))), Err(WireError::Field("epoch")));
    assert_eq!(swarm::report(&report(lease(0, u64::MAX))), Err(WireError::Field("lease")));
    let epoch = u64::MAX;
    let claim = generated::Claim { digest, size: 1000, epoch, origin, ..generated::Claim::default() };
    assert_eq!(swarm::claim(claim), Err(WireError::Field("epoch")));
    let answer = generated::ClaimAnswer { epoch: u64::MAX, ..generated::ClaimAnswer::default() };
    assert_eq!(swarm::claim_answer(answer), Err(WireError::Field("epoch")));
    let standing = generated::Standing { epoch: u64::MAX, ..generated::Standing::default() };
    assert_eq!(swarm::standing(standing), Err(WireError::Field("epoch")));
}

#[test]
fn what_upstream_is_said_to_have_said_is_bounded() {
    use crate::swarm::lease::{LeaseEnd, MAX_RETRY_AFTER};
    use crate::swarm::message::Membership;
    let hopeless = |status, retry_after_ms| {
        let standing = generated::Standing {
            hopeless: generated::LeaseOutcome::Trouble.into(),
            hopeless_status: status,
            hopeless_retry_after_ms: retry_after_ms,
            ..generated::Standing::default()
        };
        match swarm::standing(standing)? {
            SessionMessage::Standing(Standing::Member(Membership { hopeless, .. }), _) => Ok(hopeless),
            other => panic!("{other:?}"),
        }
    };
    let longest = LeaseEnd::Trouble { status: Some(429), retry_after: Some(MAX_RETRY_AFTER) };
    assert_eq!(hopeless(429, u64::MAX), Ok(Some(longest)));
    assert_eq!(hopeless(0, 0), Ok(Some(LeaseEnd::TROUBLE)));
    for status in [1, 99, 600, 65_939] {
        assert_eq!(hopeless(status, 0), Err(WireError::Field("status")));
    }
}
