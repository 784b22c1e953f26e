//! The table of running transfers, and the actor that owns it.

use std::collections::{HashMap, VecDeque};

use shoal_gateway::error::PullError;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use shoal_proto::origin::Origin;
use shoal_store::{Of, Partial, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Command, InProgress, OpenError, Ports, Status, TransferHandle, driver, other_size};

/// The most transfers at once: what comes after waits for its turn.
const MAX_TRANSFERS: usize = 512;
/// The most that wait. Questions for what runs are answered all the same: peers live on them.
const MAX_WAITING: usize = 4096;
/// Questions to one transfer that may wait.
const TRANSFER_QUEUE: usize = 64;

type Reply = oneshot::Sender<Result<TransferHandle, OpenError>>;

/// See the module.
pub(super) struct Desk {
    ports: Ports,
    opening: HashMap<Digest, Opening>,
    opened: JoinSet<(Digest, Result<Opened, OpenError>)>,
    running: HashMap<Digest, TransferHandle>,
    /// Those for whom there is no room yet, the first first.
    waiting: VecDeque<Wanted>,
    tasks: JoinSet<Digest>,
}

/// A blob that somebody wants.
struct Wanted {
    digest: Digest,
    size: u64,
    of: Of,
    reply: Reply,
}

/// A blob whose transfer is about to begin: of one that is resumed, all that is there is read and checked first, which
/// for gigabytes takes seconds. Others are not held up by that.
struct Opening {
    size: u64,
    /// For whose sake it was asked for, and who waits.
    waiting: Vec<(Of, Reply)>,
    /// Who only wants to know of it: to say that nothing runs would send peers of a blob under repair upstream.
    finders: Vec<oneshot::Sender<Option<TransferHandle>>>,
}

struct Opened {
    partial: Partial,
    /// It was completed since the caller looked.
    held: bool,
}

impl Desk {
    pub(super) fn new(ports: Ports) -> Self {
        Self {
            ports,
            opening: HashMap::new(),
            opened: JoinSet::new(),
            running: HashMap::new(),
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>, shutdown: CancellationToken) {
        loop {
            // Cancel-safe: all branches only receive.
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended),
                Some(opened) = self.opened.join_next(), if !self.opened.is_empty() => self.begin(opened),
                command = queue.recv() => match command {
                    Some(command) => self.handle(command),
                    None => break,
                },
            }
            self.admit();
        }
        self.opened.shutdown().await;
        self.tasks.shutdown().await;
    }

    fn ended(&mut self, ended: Result<Digest, JoinError>) {
        match ended {
            Ok(digest) => {
                self.running.remove(&digest);
            }
            Err(error) => {
                tracing::error!(%error, "a transfer's task died");
                // Which one is not said: those whose task is gone no longer take questions.
                self.running.retain(|_, handle| !handle.questions.is_closed());
            }
        }
    }

    fn handle(&mut self, command: Command) {
        // Who asked may have left meanwhile: then nobody minds that the reply is lost.
        match command {
            Command::Find { digest, reply } => match self.opening.get_mut(&digest) {
                Some(opening) => opening.finders.push(reply),
                None => drop(reply.send(self.live(&digest))),
            },
            Command::List { reply } => drop(reply.send(self.list())),
            Command::Open { digest, size, of, reply } => {
                let wanted = Wanted { digest, size, of, reply };
                if self.is_full() && !self.concerns_a_running_one(&digest) {
                    self.put_off(wanted);
                } else {
                    self.open(wanted);
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.running.len() + self.opening.len() >= MAX_TRANSFERS
    }

    fn concerns_a_running_one(&self, digest: &Digest) -> bool {
        self.opening.contains_key(digest) || self.live(digest).is_some()
    }

    fn put_off(&mut self, wanted: Wanted) {
        if self.waiting.len() >= MAX_WAITING {
            // Those who gave up make room.
            self.waiting.retain(|wanted| !wanted.reply.is_closed());
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(wanted);
        } else {
            let busy = "it fetches as many blobs as it can, and as many as may wait do so";
            drop(wanted.reply.send(Err(PullError::Unavailable(busy.to_owned()).into())));
        }
    }

    /// Begins what waits, as far as there is room.
    fn admit(&mut self) {
        while !self.is_full()
            && let Some(wanted) = self.waiting.pop_front()
        {
            if !wanted.reply.is_closed() {
                self.open(wanted);
            }
        }
    }

    fn live(&self, digest: &Digest) -> Option<TransferHandle> {
        self.running.get(digest).filter(|handle| !handle.questions.is_closed()).cloned()
    }

    fn list(&self) -> Vec<InProgress> {
        let line = |(digest, handle): (&Digest, &TransferHandle)| match *handle.status.borrow() {
            Status::Running { have, .. } => Some(InProgress { digest: *digest, size: handle.size, have }),
            _ => None,
        };
        self.running.iter().filter_map(line).collect()
    }

    fn open(&mut self, Wanted { digest, size, of, reply }: Wanted) {
        if let Some(handle) = self.live(&digest) {
            drop(reply.send(handle.joined(size, of)));
            return;
        }
        if let Some(opening) = self.opening.get_mut(&digest) {
            let is_theirs = |(first, _): &(Of, Reply)| first.scope.registry == of.scope.registry;
            if opening.size == size {
                opening.waiting.push((of, reply));
            } else if opening.waiting.first().is_some_and(is_theirs) {
                drop(reply.send(Err(other_size(&digest, opening.size, size))));
            } else {
                drop(reply.send(Err(OpenError::OfAnother(digest))));
            }
            return;
        }
        let store = self.ports.store.clone();
        self.opening
            .insert(digest, Opening { size, waiting: vec![(of.clone(), reply)], finders: Vec::new() });
        self.opened.spawn(async move { (digest, opened(&store, &digest, size, of).await) });
    }

    /// Begins a transfer whose partial blob is open now, and tells those who wait.
    fn begin(&mut self, opened: Result<(Digest, Result<Opened, OpenError>), JoinError>) {
        let (digest, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "a task that opens a partial blob died");
                // Which one is not said; those who wait ask again.
                self.opening.clear();
                return;
            }
        };
        let Some(Opening { size, waiting, finders }) = self.opening.remove(&digest) else { return };
        let mut waiting = waiting.into_iter();
        let Some((of, first)) = waiting.next() else { return };
        let handle = opened.map(|opened| self.transfer(digest, size, of.scope, opened));
        for (of, reply) in waiting {
            drop(reply.send(handle.clone().and_then(|handle| handle.joined(size, of))));
        }
        drop(first.send(handle));
        for finder in finders {
            drop(finder.send(self.live(&digest)));
        }
    }

    fn transfer(&mut self, digest: Digest, size: u64, scope: Scope, opened: Opened) -> TransferHandle {
        let Opened { partial, held } = opened;
        let (questions, inbox) = mpsc::channel(TRANSFER_QUEUE);
        let origin = Origin::of(&scope.registry);
        if held {
            // Nobody answers questions: readers turn to the store.
            let (_, status) = watch::channel(Status::Held { round: 0 });
            return TransferHandle { size, origin, partial, questions, status };
        }
        let (status, watch) = watch::channel(Status::Running { have: 0, round: 0 });
        let handle = TransferHandle { size, origin, partial: partial.clone(), questions, status: watch };
        let driver = driver::Driver::new(self.ports.clone(), digest, scope, partial, status);
        let span = tracing::info_span!("fetch", %digest);
        self.tasks.spawn(
            async move {
                driver.run(inbox).await;
                digest
            }
            .instrument(span),
        );
        self.running.insert(digest, handle.clone());
        handle
    }
}

async fn opened(store: &Store, digest: &Digest, size: u64, of: Of) -> Result<Opened, OpenError> {
    ChunkLayout::of(size).map_err(|error| PullError::TooLarge(error.to_string()))?;
    let origin = of.origin();
    let opened = async {
        let partial = store.partial(digest, size, of).await?;
        let held = store.held(digest).await?.is_some();
        // Others may have completed it since the caller looked.
        if held && !store.whose(digest).await?.is_given_for(origin) {
            return Err(StoreError::OfAnother(*digest));
        }
        Ok(Opened { partial, held })
    };
    opened.await.map_err(|error| match error {
        StoreError::OfAnother(digest) => OpenError::OfAnother(digest),
        error => OpenError::Failed(PullError::Unavailable(error.to_string())),
    })
}
