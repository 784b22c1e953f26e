//! Counts that go on from one start of the node to the next.

use std::collections::BTreeMap;

use redb::ReadableTable as _;

use crate::StoreError;
use crate::change::Change;
use crate::store::{Store, blocking};
use crate::tables::TOTALS;

impl Store {
    /// How far things were counted when it was last written down, by name.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn totals(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let inner = self.inner.clone();
        blocking(move || {
            inner.database.read(|txn| {
                let rows = txn.open_table(TOTALS)?;
                let rows =
                    rows.iter()?.map(|row| row.map(|(name, total)| (name.value().to_owned(), total.value())));
                Ok(rows.collect::<Result<_, _>>()?)
            })
        })
        .await
    }

    /// Writes down how far these were counted; the others stay as they are.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn set_totals(&self, totals: Vec<(&'static str, u64)>) -> Result<(), StoreError> {
        self.inner.writer.write(Change::Totals(totals)).await
    }
}
