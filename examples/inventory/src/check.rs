//! `inventory --check`: bad input, a store that fails, and a sale with faults.

mod bad_input;
mod client;
mod faults;
#[path = "../../check/report.rs"]
mod report;
mod sale;
mod server;

use std::{path::Path, process::ExitCode};

use self::report::Report;
use crate::{
    BoxError, catalogue,
    store::{Audit, Place, Tables},
};

pub(crate) async fn run(orders: u32) -> Result<ExitCode, BoxError> {
    let mut report = Report::default();
    let directory = tempfile::tempdir()?;
    bad_input::check(&mut report).await?;
    faults::check(&mut report, directory.path()).await?;
    sale::play(&mut report, directory.path(), orders).await?;
    Ok(report.finish())
}

/// Compares the orders in a store with its stock.
pub(crate) fn audit(file: &Path) -> Result<ExitCode, BoxError> {
    let audit = read(file)?;
    let wrong = audit.wrong();
    let sold: u64 = audit.stock.iter().map(|stock| u64::from(stock.sold)).sum();
    println!(
        "{}: {} orders, {sold} pieces sold; {} items do not add up",
        file.display(),
        audit.orders.len(),
        wrong.len()
    );
    wrong.iter().for_each(|wrong| println!("  {wrong}"));
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}

fn read(file: &Path) -> Result<Audit, BoxError> {
    // Not made if it is missing.
    std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Tables::open(&Place::File(file.to_owned()), 0)?.audit()?)
}

impl Audit {
    /// Returns the items whose stock is not what the orders say.
    fn wrong(&self) -> Vec<String> {
        let items = catalogue::items().iter();
        let stock = self.stock.iter().zip(&self.counted);
        items
            .zip(stock)
            .filter(|(_, (told, counted))| {
                (told.reserved, told.sold) != (counted.reserved, counted.sold)
            })
            .map(|(item, (told, counted))| format!("{}: {told:?}, by orders {counted:?}", item.sku))
            .collect()
    }

    /// Returns the number of items of which more were reserved and sold than there were, or pieces are lost.
    fn oversold(&self, stock: u32) -> usize {
        let sums = self.stock.iter().map(|each| {
            [each.available, each.reserved, each.sold]
                .map(u64::from)
                .iter()
                .sum::<u64>()
        });
        sums.filter(|pieces| *pieces != u64::from(stock)).count()
    }
}
