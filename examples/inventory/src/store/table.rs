//! The tables of the store in redb, and what one transaction does to them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};

use super::{Placed, Stock, StoreError};
use crate::{
    catalogue::{self, ItemNumber},
    order::{Record, State},
};

/// Available, reserved and sold.
const STOCK: TableDefinition<'_, u32, (u32, u32, u32)> = TableDefinition::new("stock");
/// The state, then the record.
const ORDERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders");
/// The order of each idempotency key.
const KEYS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("keys");

/// Where the tables are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Memory,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str("(in memory)"),
        }
    }
}

/// The store cannot be opened: which one, and why.
#[derive(Debug)]
pub(crate) struct OpenError {
    place: Place,
    why: String,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the store {}: {}", self.place, self.why)
    }
}

impl std::error::Error for OpenError {}

pub(crate) struct Tables {
    database: Database,
}

impl Tables {
    /// Opens the tables, and makes them with `stock` of each item if they are new. A file that was not closed
    /// is repaired: what was committed is there. What fails its checksums is refused, and left as it is.
    pub(crate) fn open(place: &Place, stock: u32) -> Result<Self, OpenError> {
        let error = |why: String| OpenError {
            place: place.clone(),
            why,
        };
        let database = match place {
            Place::Memory => Database::builder()
                .create_with_backend(redb::backends::InMemoryBackend::new())
                .map_err(|error| error.to_string()),
            Place::File(path) => open_file(path),
        };
        let tables = Self {
            database: database.map_err(error)?,
        };
        tables
            .fill(stock)
            .map_err(|cause| error(cause.to_string()))?;
        Ok(tables)
    }

    fn fill(&self, stock: u32) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut items = write.open_table(STOCK)?;
            for item in 0..catalogue::ITEMS as ItemNumber {
                if items.get(item)?.is_none() {
                    items.insert(item, (stock, 0, 0))?;
                }
            }
            write.open_table(ORDERS)?;
            write.open_table(KEYS)?;
        }
        write.commit()?;
        Ok(())
    }

    pub(crate) fn stock(&self, mut each: impl FnMut(Stock)) -> Result<(), redb::Error> {
        let read = self.database.begin_read()?;
        for row in read.open_table(STOCK)?.iter()? {
            each(Stock::from(row?.1.value()));
        }
        Ok(())
    }

    pub(crate) fn stock_of(&self, item: ItemNumber) -> Result<Stock, redb::Error> {
        let read = self.database.begin_read()?;
        let stock = read.open_table(STOCK)?.get(item)?;
        Ok(stock.map(|row| row.value().into()).unwrap_or_default())
    }

    pub(crate) fn order(&self, order: u64) -> Result<Option<Placed>, redb::Error> {
        let read = self.database.begin_read()?;
        let row = read.open_table(ORDERS)?.get(order)?;
        row.map(|row| placed(order, row.value(), false)).transpose()
    }

    pub(crate) fn begin(&self) -> Result<Batch, redb::Error> {
        Ok(Batch(self.database.begin_write()?))
    }

    /// Reads everything, and compares the orders with the stock.
    pub(crate) fn audit(&self) -> Result<Audit, redb::Error> {
        let mut audit = Audit::default();
        self.stock(|stock| audit.stock.push(stock))?;
        audit.counted = vec![Stock::default(); audit.stock.len()];
        let read = self.database.begin_read()?;
        for row in read.open_table(ORDERS)?.iter()? {
            let (order, row) = row?;
            let placed = placed(order.value(), row.value(), false)?;
            let record = Record::parse(&placed.record).ok_or_else(|| damaged(placed.order))?;
            for line in record.lines() {
                let counted = &mut audit.counted[line.item as usize];
                match placed.state {
                    State::Reserved => counted.reserved += line.quantity,
                    State::Confirmed => counted.sold += line.quantity,
                    State::Cancelled => {}
                }
            }
            audit.orders.push((placed.order, placed.state));
        }
        for row in read.open_table(KEYS)?.iter()? {
            let (key, order) = row?;
            audit.keys.push((key.value().to_vec(), order.value()));
        }
        Ok(audit)
    }
}

/// All that is in the store.
#[derive(Default)]
pub(crate) struct Audit {
    /// As the table says, for each item.
    pub(crate) stock: Vec<Stock>,
    /// Reserved and sold, as the orders say.
    pub(crate) counted: Vec<Stock>,
    /// In ascending order.
    pub(crate) orders: Vec<(u64, State)>,
    pub(crate) keys: Vec<(Vec<u8>, u64)>,
}

fn open_file(path: &Path) -> Result<Database, String> {
    // Checksums are checked before anything is trusted. A damaged length can lead the library astray, too.
    let open = || {
        Database::builder()
            .set_check_integrity_on_open(true)
            .create(path)
    };
    let opened = std::panic::catch_unwind(open);
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            Err("another process has it open, and locked".into())
        }
        Ok(Err(DatabaseError::Storage(StorageError::Corrupted(what)))) => Err(corrupted(&what)),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            Err(corrupted(&error.to_string()))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(corrupted("see above")),
    }
}

fn corrupted(what: &str) -> String {
    format!("the file is corrupted ({what}); restore it from a copy, or move it away to begin anew")
}

fn damaged(order: u64) -> redb::Error {
    redb::Error::Corrupted(format!("order {order} cannot be read"))
}

fn placed(order: u64, row: &[u8], replayed: bool) -> Result<Placed, redb::Error> {
    let (state, record) = row.split_first().ok_or_else(|| damaged(order))?;
    Ok(Placed {
        order,
        state: State::from_byte(*state).ok_or_else(|| damaged(order))?,
        record: Bytes::copy_from_slice(record),
        replayed,
    })
}

impl From<(u32, u32, u32)> for Stock {
    fn from((available, reserved, sold): (u32, u32, u32)) -> Self {
        Self {
            available,
            reserved,
            sold,
        }
    }
}

/// Why a request of a batch was not carried out: the request's own fault, or that of the store, which ends
/// the batch.
pub(crate) enum Failed {
    Refused(StoreError),
    Store(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// A transaction. It becomes visible and durable with [`Batch::commit`].
pub(crate) struct Batch(WriteTransaction);

impl Batch {
    pub(crate) fn place(&self, key: &[u8], record: &Bytes) -> Result<Placed, Failed> {
        let mut keys = self.0.open_table(KEYS)?;
        let mut orders = self.0.open_table(ORDERS)?;
        if let Some(order) = keys.get(key)?.map(|order| order.value()) {
            let row = orders.get(order)?.ok_or_else(|| damaged(order))?;
            let before = placed(order, row.value(), true)?;
            return if before.record == record {
                Ok(before)
            } else {
                Err(Failed::Refused(StoreError::OtherOrder))
            };
        }
        let lines = Record::parse(record).ok_or_else(|| damaged(0))?;
        let mut stock = self.0.open_table(STOCK)?;
        // All lines are looked at before the first one is reserved.
        for line in lines.lines() {
            let available = stock_in(&stock, line.item)?.available;
            if available < line.quantity {
                return Err(Failed::Refused(StoreError::OutOfStock {
                    item: line.item,
                    asked: line.quantity,
                    available,
                }));
            }
        }
        for line in lines.lines() {
            change(&mut stock, line.item, |stock| {
                stock.available -= line.quantity;
                stock.reserved += line.quantity;
            })?;
        }
        let order = orders.last()?.map_or(1, |(order, _)| order.value() + 1);
        let row = [&[State::Reserved.to_byte()], &record[..]].concat();
        orders.insert(order, &*row)?;
        keys.insert(key, order)?;
        Ok(Placed {
            order,
            state: State::Reserved,
            record: record.clone(),
            replayed: false,
        })
    }

    pub(crate) fn settle(&self, order: u64, to: State) -> Result<Placed, Failed> {
        let mut orders = self.0.open_table(ORDERS)?;
        let before = match orders.get(order)? {
            Some(row) => placed(order, row.value(), true)?,
            None => return Err(Failed::Refused(StoreError::NoSuchOrder(order))),
        };
        match before.state {
            State::Reserved => {}
            state if state == to => return Ok(before),
            state => return Err(Failed::Refused(StoreError::Settled { order, state })),
        }
        let record = Record::parse(&before.record).ok_or_else(|| damaged(order))?;
        let mut stock = self.0.open_table(STOCK)?;
        for line in record.lines() {
            change(&mut stock, line.item, |stock| {
                stock.reserved -= line.quantity;
                match to {
                    State::Confirmed => stock.sold += line.quantity,
                    _ => stock.available += line.quantity,
                }
            })?;
        }
        let row = [&[to.to_byte()], &before.record[..]].concat();
        orders.insert(order, &*row)?;
        Ok(Placed {
            state: to,
            replayed: false,
            ..before
        })
    }

    pub(crate) fn commit(self) -> Result<(), redb::Error> {
        Ok(self.0.commit()?)
    }
}

type StockTable<'t> = Table<'t, u32, (u32, u32, u32)>;

fn stock_in(table: &StockTable<'_>, item: ItemNumber) -> Result<Stock, redb::Error> {
    let stock = table.get(item)?;
    Ok(stock.map(|row| row.value().into()).unwrap_or_default())
}

fn change(
    table: &mut StockTable<'_>,
    item: ItemNumber,
    change: impl FnOnce(&mut Stock),
) -> Result<(), redb::Error> {
    let mut stock = stock_in(table, item)?;
    change(&mut stock);
    table.insert(item, (stock.available, stock.reserved, stock.sold))?;
    Ok(())
}
