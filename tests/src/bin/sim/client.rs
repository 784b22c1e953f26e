//! Clients: each pulls the image's layers in order, a few at once.

use crate::clock::At;
use crate::fleet::{Blob, Fleet};

impl Fleet {
    pub(crate) fn begins(&mut self, node: u32) {
        let now = self.clock.now;
        if self.node(node).alive {
            self.node(node).began = Some(now);
            self.next_layers(node);
        }
    }

    fn next_layers(&mut self, node: u32) {
        for layer in 0..u8::try_from(self.layers.len()).unwrap_or(u8::MAX) {
            let blobs = &self.node(node).blobs;
            let running = blobs.iter().filter(|blob| matches!(blob, Blob::Running(_))).count();
            let absent = matches!(blobs[usize::from(layer)], Blob::Absent);
            if absent && running < self.scenario.node.layers_at_once {
                self.start(At { node, layer });
            }
        }
    }

    /// One more layer is held.
    pub(crate) fn held(&mut self, node: u32) {
        let now = self.clock.now;
        self.next_layers(node);
        let node = self.node(node);
        if node.ended.is_none() && node.blobs.iter().all(|blob| matches!(blob, Blob::Held)) {
            node.ended = Some(now);
            self.left -= 1;
        }
    }

    /// A layer cannot be had: its client gives up.
    pub(crate) fn failed(&mut self, at: At) {
        let first = !self.node(at.node).blobs.iter().any(|blob| matches!(blob, Blob::Failed));
        *self.blob(at) = Blob::Failed;
        if first {
            self.figures.failed += 1;
            self.left -= 1;
        }
    }
}
