//! One thread that writes: what is asked for while a commit waits for the disk is the next transaction.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::HeaderValue;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    OpenError, Place, Placed, Stock, Store, StoreError, Tables,
    table::{Batch, Failed},
};
use crate::{catalogue::ItemNumber, order::State};

/// Requests that wait for the writer. More of them wait in line for a place.
const QUEUE: usize = 1024;
/// Most requests in a transaction.
const BATCH: usize = 512;
/// Time between two attempts to open the store again after it failed.
const REOPEN: Duration = Duration::from_millis(500);

type Answer = Result<Placed, StoreError>;

struct Job {
    ask: Ask,
    reply: oneshot::Sender<Answer>,
}

enum Ask {
    Place { key: HeaderValue, record: Bytes },
    Settle { order: u64, to: State },
}

/// The open tables, or why there are none.
#[derive(Clone)]
struct Current(Arc<RwLock<Result<Arc<Tables>, String>>>);

impl Current {
    fn get(&self) -> Result<Arc<Tables>, String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, tables: Result<Arc<Tables>, String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tables;
    }
}

/// A store in redb, in a file or in memory.
#[derive(Clone)]
pub(crate) struct TableStore {
    place: Place,
    current: Current,
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl TableStore {
    /// Opens the store, with `stock` of each item if it is new.
    pub(crate) fn open(place: Place, stock: u32) -> Result<Self, OpenError> {
        let tables = Arc::new(Tables::open(&place, stock)?);
        let current = Current(Arc::new(RwLock::new(Ok(tables))));
        let (sender, jobs) = mpsc::channel(QUEUE);
        let writer = Writer {
            place: place.clone(),
            stock,
            current: current.clone(),
            failed: None,
        };
        let thread = thread::Builder::new().name("store".into());
        let thread = thread.spawn(move || writer.run(jobs));
        Ok(Self {
            place,
            current,
            jobs: Arc::new(Mutex::new(Some(sender))),
            writer: Arc::new(Mutex::new(Some(thread.expect("a thread")))),
        })
    }

    async fn ask(&self, ask: Ask) -> Answer {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let jobs = lock(&self.jobs).clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        jobs.send(Job { ask, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Reads from what was committed last. That is in the cache, so it is not worth another thread.
    fn read<T>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let tables = self.current.get().map_err(StoreError::Unavailable)?;
        read(&tables).map_err(|error| unavailable(&self.place, "read", &error))
    }
}

fn unavailable(place: &Place, what: &str, error: &redb::Error) -> StoreError {
    StoreError::Unavailable(format!("cannot {what} the store {place}: {error}"))
}

impl Store for TableStore {
    fn stock(&self, each: impl FnMut(Stock)) -> Result<(), StoreError> {
        self.read(|tables| tables.stock(each))
    }

    fn stock_of(&self, item: ItemNumber) -> Result<Stock, StoreError> {
        self.read(|tables| tables.stock_of(item))
    }

    fn order(&self, order: u64) -> Result<Placed, StoreError> {
        let placed = self.read(|tables| tables.order(order))?;
        placed.ok_or(StoreError::NoSuchOrder(order))
    }

    async fn place(&self, key: HeaderValue, record: Bytes) -> Answer {
        self.ask(Ask::Place { key, record }).await
    }

    async fn settle(&self, order: u64, to: State) -> Answer {
        self.ask(Ask::Settle { order, to }).await
    }

    fn close(&self) {
        drop(lock(&self.jobs).take());
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

/// No critical section panics half way, so a poisoned lock is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    place: Place,
    stock: u32,
    current: Current,
    /// When opening it again failed last.
    failed: Option<Instant>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            match self.tables() {
                Ok(tables) => self.write(&tables, &mut batch),
                Err(why) => fail(&mut batch, &StoreError::Unavailable(why)),
            }
        }
        // Dropping the last reference to the tables closes the file.
        self.current.set(Err("the store is closed".into()));
    }

    /// Returns the tables. After a failure they are opened again, which tells what is on the disk.
    fn tables(&mut self) -> Result<Arc<Tables>, String> {
        let why = match self.current.get() {
            Ok(tables) => return Ok(tables),
            Err(why) => why,
        };
        if self.failed.is_some_and(|failed| failed.elapsed() < REOPEN) {
            return Err(why);
        }
        let opened = Tables::open(&self.place, self.stock).map(Arc::new);
        let opened = opened.map_err(|error| error.to_string());
        match &opened {
            Ok(_) => eprintln!("inventory: the store {} works again", self.place),
            Err(_) => self.failed = Some(Instant::now()),
        }
        self.current.set(opened.clone());
        opened
    }

    fn write(&mut self, tables: &Tables, jobs: &mut Vec<Job>) {
        let mut answers = Vec::with_capacity(jobs.len());
        // Nobody is answered before the commit.
        let committed = tables.begin().and_then(|batch| {
            for job in &*jobs {
                answers.push(carry_out(&batch, &job.ask)?);
            }
            batch.commit()
        });
        match committed {
            Ok(()) => {
                for (job, answer) in jobs.drain(..).zip(answers) {
                    let _ = job.reply.send(answer); // the client may have left
                }
            }
            Err(error) => {
                let error = unavailable(&self.place, "write to", &error);
                eprintln!("inventory: {error}");
                self.current.set(Err(error.to_string()));
                self.failed = Some(Instant::now());
                fail(jobs, &error);
            }
        }
    }
}

fn carry_out(batch: &Batch, ask: &Ask) -> Result<Answer, redb::Error> {
    let done = match ask {
        Ask::Place { key, record } => batch.place(key.as_bytes(), record),
        Ask::Settle { order, to } => batch.settle(*order, *to),
    };
    match done {
        Ok(placed) => Ok(Ok(placed)),
        Err(Failed::Refused(error)) => Ok(Err(error)),
        Err(Failed::Store(error)) => Err(error),
    }
}

fn fail(jobs: &mut Vec<Job>, error: &StoreError) {
    for job in jobs.drain(..) {
        let _ = job.reply.send(Err(error.clone()));
    }
}
