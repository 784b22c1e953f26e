//! Verdicts on the wire.

use super::{WireError, generated, peer, scope};
use crate::verdict::{Question, Reader, SignedVerdict, Verdict};

pub(super) fn question(wire: &generated::AskVerdict) -> Result<Question, WireError> {
    let reader = match wire.reader.as_ref() {
        [] => Reader::Everyone,
        [1] => Reader::Cluster,
        _ => Reader::Client(wire.reader.as_ref().try_into().map_err(|_| WireError::Field("reader"))?),
    };
    Ok(Question {
        scope: scope(&wire.registry, &wire.repository)?,
        object: wire.object.parse().map_err(|_| WireError::Field("object"))?,
        reader,
    })
}

pub(super) fn question_to_wire(question: &Question) -> generated::AskVerdict {
    generated::AskVerdict {
        registry: question.scope.registry.to_string(),
        repository: question.scope.repository.to_string(),
        object: question.object.to_string(),
        reader: match &question.reader {
            Reader::Everyone => Vec::new().into(),
            Reader::Cluster => vec![1].into(),
            Reader::Client(fingerprint) => fingerprint.to_vec().into(),
        },
    }
}

/// Reads a verdict; its signature is not yet verified.
pub(super) fn signed(wire: &generated::SignedVerdict) -> Result<SignedVerdict, WireError> {
    Ok(SignedVerdict {
        verdict: Verdict {
            question: question(wire.question.as_ref().ok_or(WireError::Field("question"))?)?,
            checked_unix_ms: wire.checked_unix_ms,
        },
        signer: peer(&wire.signer)?,
        signature: wire.signature.as_ref().try_into().map_err(|_| WireError::Field("signature"))?,
    })
}

pub(super) fn signed_to_wire(signed: &SignedVerdict) -> generated::SignedVerdict {
    generated::SignedVerdict {
        question: Some(question_to_wire(&signed.verdict.question)),
        checked_unix_ms: signed.verdict.checked_unix_ms,
        signer: signed.signer.to_bytes().into(),
        signature: signed.signature.to_vec().into(),
    }
}
