//! Rows of a damaged file, as many as can be read.

use rusqlite::{Connection, OptionalExtension, params};

use crate::pack::Packed;

/// Farthest jump over rows that cannot be read.
const FAR: i64 = 1 << 40;

/// Rows that are tried one by one in front of the place where reading goes on.
const NEAR: i64 = 4_096;

/// A row as it was read.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) digest: Vec<u8>,
    pub(crate) packed: Packed,
}

/// What lies between rows that can be read.
#[derive(Debug)]
pub(crate) enum Found {
    Row(Row),
    /// Rows after this one, up to the next that is found, cannot be read.
    Gap(i64, String),
}

type Columns = (i64, Vec<u8>, i64, Vec<u8>);

fn one(connection: &Connection, condition: &str, id: i64) -> rusqlite::Result<Option<Row>> {
    let query = format!("SELECT id, digest, size, object FROM blobs WHERE id {condition} LIMIT 1");
    let columns: Option<Columns> = connection
        .prepare_cached(&query)?
        .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    Ok(columns.map(|(id, digest, size, object)| Row { id, digest, packed: Packed(size, object) }))
}

/// Reads every row that can be read, in order.
pub(crate) fn scan<E>(
    connection: &Connection,
    mut found: impl FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    const NEXT: &str = "> ?1 ORDER BY id";
    let mut at = i64::MIN;
    loop {
        let error = match one(connection, NEXT, at) {
            Ok(Some(row)) => {
                at = row.id;
                found(Found::Row(row))?;
                continue;
            }
            Ok(None) => return Ok(()),
            Err(error) => error,
        };
        found(Found::Gap(at.max(0), error.to_string()))?;
        let start = at.max(0);
        let mut jump = 1;
        let next = loop {
            if jump > FAR {
                return Ok(());
            }
            match one(connection, NEXT, start + jump) {
                Ok(next) => break next,
                Err(_) => jump *= 2,
            }
        };
        let end = next.as_ref().map_or(start + jump, |row| row.id);
        // The jump may have gone over rows that can be read.
        let first = (start + 1).max(end.saturating_sub(NEAR));
        for id in first..end {
            if let Ok(Some(row)) = one(connection, "= ?1", id) {
                found(Found::Row(row))?;
            }
        }
        match next {
            Some(row) => {
                at = row.id;
                found(Found::Row(row))?;
            }
            None => return Ok(()),
        }
    }
}
