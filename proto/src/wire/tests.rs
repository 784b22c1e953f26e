//! Golden vectors, round trips and hostile input of the wire format.

use super::*;
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
    let request = ChunkRequest { id: 7, digest: Digest::sha256_of(b""), size: 1_000_000, chunk: 3 };
    let mut frame = BytesMut::new();
    encode_frame(&request.into_wire(), &mut frame);
    assert_eq!(
        hex::encode(&frame),
        "2c080712221220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85518c0843d2003"
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
        checked_unix_ms: 5,
    };
    for message in [
        SessionMessage::AskBlob(Digest::sha256_of(b"x")),
        SessionMessage::Blob(Holding::None),
        SessionMessage::Blob(Holding::Complete { size: 12 }),
        SessionMessage::Blob(Holding::Partial {
            size: 3_000_000,
            chunks: layout_bits(3_000_000, &[0, 9, 11]),
        }),
        SessionMessage::AskTag(scope, "x".parse().unwrap()),
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
    };
    assert_eq!(ChunkRequest::from_wire(&request), Err(WireError::Field("chunk")));
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
