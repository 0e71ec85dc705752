//! Chat rooms and their members.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{Sender, error::TrySendError},
};
use tokio_util::sync::CancellationToken;

/// A message to a peer.
pub(crate) struct Line {
    /// JSON, shared by all receivers.
    pub(crate) text: Utf8Bytes,
    /// Limits the lines of the peer itself that are queued.
    _own: Option<OwnedSemaphorePermit>,
}

/// Maximum number of lines queued for a peer. A room never waits for a peer: a peer that reads more
/// slowly than the others talk is disconnected. A peer that talks faster than it reads has to wait.
pub(crate) const QUEUE: usize = 64;

/// Maximum number of a peer's own lines in its queue. The other slots are for those of others.
const OWN: usize = QUEUE / 2;

const MAX_ROOMS: usize = 1000;

#[derive(Default)]
pub(crate) struct Rooms {
    rooms: Mutex<HashMap<String, HashMap<usize, Peer>>>,
    /// The number of the next peer. Numbers are never reused.
    next: AtomicUsize,
    stale: AtomicUsize,
    slow: AtomicUsize,
}

struct Peer {
    queue: Sender<Line>,
    too_slow: CancellationToken,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum Event<'a> {
    Joined { from: &'a str, peers: usize },
    Left { from: &'a str, peers: usize },
    Said { from: &'a str, text: &'a str },
}

/// A peer's membership in a room. It ends when it is dropped.
pub(crate) struct Member<'a> {
    rooms: &'a Rooms,
    room: &'a str,
    name: &'a str,
    number: usize,
    own: Arc<Semaphore>,
}

impl Rooms {
    /// Enters a room, and creates it if necessary. Returns `None` if there are too many rooms.
    pub(crate) fn join<'a>(
        &'a self,
        room: &'a str,
        name: &'a str,
        queue: Sender<Line>,
        too_slow: CancellationToken,
    ) -> Option<Member<'a>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let peers = {
            let mut rooms = self.lock();
            if rooms.len() >= MAX_ROOMS && !rooms.contains_key(room) {
                return None;
            }
            let peers = rooms.entry(room.to_owned()).or_default();
            peers.insert(number, Peer { queue, too_slow });
            peers.len()
        };
        self.send(room, &Event::Joined { from: name, peers }, None);
        Some(Member {
            rooms: self,
            room,
            name,
            number,
            own: Arc::new(Semaphore::new(OWN)),
        })
    }

    /// Sends an event to all peers of a room. Its sender, if it is one of them, has a permit for it.
    fn send(&self, room: &str, event: &Event<'_>, sender: Option<(usize, OwnedSemaphorePermit)>) {
        let Ok(text) = serde_json::to_string(event) else {
            return; // unreachable: strings and numbers always serialize
        };
        let text = Utf8Bytes::from(text);
        let (sending, mut permit) = sender.unzip();
        for (number, peer) in self.lock().get(room).into_iter().flatten() {
            let line = Line {
                text: text.clone(),
                _own: permit.take_if(|_| Some(*number) == sending),
            };
            let sent = peer.queue.try_send(line);
            if matches!(sent, Err(TrySendError::Full(_))) && !peer.too_slow.is_cancelled() {
                self.slow.fetch_add(1, Ordering::Relaxed);
                peer.too_slow.cancel();
            }
        }
    }

    pub(crate) fn note_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the peers disconnected so far: stale ones, and those that were too slow.
    pub(crate) fn dropped(&self) -> (usize, usize) {
        let [stale, slow] = [&self.stale, &self.slow].map(|count| count.load(Ordering::Relaxed));
        (stale, slow)
    }

    /// Returns the number of rooms, and of peers in all rooms.
    pub(crate) fn count(&self) -> (usize, usize) {
        let rooms = self.lock();
        (rooms.len(), rooms.values().map(HashMap::len).sum())
    }

    /// No critical section panics half way, so a poisoned lock is still consistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<usize, Peer>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member<'_> {
    /// Waits while the peer's own lines fill half of its queue, then sends to the room.
    pub(crate) async fn say(&self, text: &str) {
        let Ok(permit) = Arc::clone(&self.own).acquire_owned().await else {
            return; // unreachable: nothing closes the semaphore
        };
        let from = self.name;
        let event = Event::Said { from, text };
        self.rooms
            .send(self.room, &event, Some((self.number, permit)));
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let peers = {
            let mut rooms = self.rooms.lock();
            let Some(peers) = rooms.get_mut(self.room) else {
                return;
            };
            peers.remove(&self.number);
            let left = peers.len();
            if left == 0 {
                rooms.remove(self.room);
            }
            left
        };
        let from = self.name;
        self.rooms
            .send(self.room, &Event::Left { from, peers }, None);
    }
}

impl fmt::Display for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((rooms, peers), (stale, slow)) = (self.count(), self.dropped());
        write!(
            f,
            "{peers} peers in {rooms} rooms; disconnected so far: {stale} stale, {slow} too slow"
        )
    }
}
