//! Discovery: some of the connected peers are asked, then those that the DHT's record names, within 300 ms.
//!
//! The DHT costs no time here: in fleets of thousands its answer lies in the local table.

use std::time::Duration;

use shoal_proto::transfer::{Availability, Event as Happens};

use crate::clock::{At, Event};
use crate::fleet::Fleet;
use crate::letter::Message;

/// How long a search may take.
const LIMIT: Duration = Duration::from_millis(300);
/// The most peers asked.
const MAX_ASKED: usize = 32;
/// With so many found, the DHT is not asked.
const ENOUGH: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Search {
    number: u32,
    running: bool,
    in_dht: bool,
    unanswered: usize,
    found: u32,
}

impl Fleet {
    pub(crate) fn discover(&mut self, at: At) {
        let mut connected = self.membership.neighbours(at.node);
        let asked = MAX_ASKED.min(connected.len());
        for place in 0..asked {
            let left = u32::try_from(connected.len() - place).unwrap_or(u32::MAX);
            connected.swap(place, place + self.dice.below(left) as usize);
        }
        connected.truncate(asked);
        let Some(running) = self.running(at) else { return };
        let number = running.search.number + 1;
        running.search = Search { number, running: true, in_dht: false, unanswered: asked, found: 0 };
        for peer in connected {
            self.send(at, peer, Message::Ask(None));
        }
        let now = self.clock.now;
        self.clock.at(now + LIMIT / 2, Event::SearchHalf(at, number));
        self.clock.at(now + LIMIT, Event::SearchEnd(at, number));
    }

    pub(crate) fn search_found(&mut self, at: At, peer: u32, holding: Option<Availability>) {
        let found = holding.is_some();
        if let Some(availability) = holding {
            let peer = self.membership.peers[peer as usize];
            self.feed(at, Happens::Provider(peer, availability));
        }
        let Some(running) = self.running(at) else { return };
        let search = &mut running.search;
        search.found += u32::from(found);
        search.unanswered = search.unanswered.saturating_sub(1);
        if search.unanswered == 0 {
            let (number, in_dht) = (search.number, search.in_dht);
            if in_dht {
                self.search_ends(at, number);
            } else {
                self.search_half(at, number);
            }
        }
    }

    pub(crate) fn search_half(&mut self, at: At, number: u32) {
        let record = self.layer(at).record.clone();
        let Some(running) = self.running(at) else { return };
        let search = &mut running.search;
        if !search.running || search.in_dht || search.number != number {
            return;
        }
        search.in_dht = true;
        let others: Vec<u32> = record.into_iter().filter(|&holder| holder != at.node).collect();
        if search.found >= ENOUGH || others.is_empty() && search.unanswered == 0 {
            self.search_ends(at, number);
            return;
        }
        search.unanswered += others.len();
        for holder in others {
            self.send(at, holder, Message::Ask(None));
        }
    }

    pub(crate) fn search_ends(&mut self, at: At, number: u32) {
        let Some(running) = self.running(at) else { return };
        if running.search.running && running.search.number == number {
            running.search.running = false;
            self.feed(at, Happens::DiscoveryEnded);
        }
    }
}
