//! Rooms, and who is in them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use tokio::sync::mpsc::{Permit, Sender, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// A message on its way to a peer: JSON, shared by all who get it.
pub(crate) type Line = Utf8Bytes;

/// How many lines wait for a peer. One that reads more slowly than others talk has to go: a room never
/// waits for it, and never keeps more than this for it. One that itself talks faster than it reads
/// has to wait.
pub(crate) const QUEUE: usize = 64;

const MAX_ROOMS: usize = 1000;

#[derive(Default)]
pub(crate) struct Rooms {
    rooms: Mutex<HashMap<String, HashMap<usize, Peer>>>,
    /// Numbers for peers; each is used once.
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

/// A peer's place in a room, until it is dropped.
pub(crate) struct Member<'a> {
    rooms: &'a Rooms,
    room: &'a str,
    name: &'a str,
    number: usize,
    queue: Sender<Line>,
}

impl Rooms {
    /// Enters a room, which is made if need be; `None` if there are too many.
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
            let queue = queue.clone();
            peers.insert(number, Peer { queue, too_slow });
            peers.len()
        };
        self.tell(room, &Event::Joined { from: name, peers }, None);
        Some(Member {
            rooms: self,
            room,
            name,
            number,
            queue,
        })
    }

    /// Tells everybody in a room; the one who talks has its own place already.
    fn tell(&self, room: &str, event: &Event<'_>, talks: Option<(usize, Permit<'_, Line>)>) {
        let Ok(line) = serde_json::to_string(event) else {
            return; // strings and numbers are always JSON
        };
        let line = Line::from(line);
        let talking = talks.as_ref().map(|(number, _)| *number);
        for (number, peer) in self.lock().get(room).into_iter().flatten() {
            if Some(*number) == talking {
                continue;
            }
            let sent = peer.queue.try_send(line.clone());
            if matches!(sent, Err(TrySendError::Full(_))) && !peer.too_slow.is_cancelled() {
                self.slow.fetch_add(1, Ordering::Relaxed);
                peer.too_slow.cancel();
            }
        }
        if let Some((_, place)) = talks {
            place.send(line);
        }
    }

    pub(crate) fn note_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Peers that were dropped so far: not heard of, and too slow.
    pub(crate) fn dropped(&self) -> (usize, usize) {
        let [stale, slow] = [&self.stale, &self.slow].map(|count| count.load(Ordering::Relaxed));
        (stale, slow)
    }

    /// Rooms, and peers in all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let rooms = self.lock();
        (rooms.len(), rooms.values().map(HashMap::len).sum())
    }

    /// No critical section panics half way, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<usize, Peer>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member<'_> {
    /// Waits until half of the peer's own queue is free, and tells everybody. So what it says itself
    /// never takes the places for what others say.
    pub(crate) async fn say(&self, text: &str) {
        let half = self.queue.reserve_many(QUEUE / 2).await;
        let Some(place) = half.ok().and_then(|mut places| places.next()) else {
            return; // it writes no more
        };
        let from = self.name;
        let event = Event::Said { from, text };
        self.rooms
            .tell(self.room, &event, Some((self.number, place)));
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
            .tell(self.room, &Event::Left { from, peers }, None);
    }
}

impl fmt::Display for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((rooms, peers), (stale, slow)) = (self.count(), self.dropped());
        write!(
            f,
            "{peers} peers in {rooms} rooms; dropped so far: {stale} not heard of, {slow} too slow"
        )
    }
}
