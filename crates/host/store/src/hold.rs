//! What a commit is about to refer to, and does not bring along: it must be there, with all that
//! hangs from it, and stay until the commit is there.
//!
//! What the last walk of a collection has reached is there as a whole and outlives the next pass
//! (see [`marks`](crate::marks)); only what was stored since, or is garbage, is looked through.

use std::collections::BTreeSet;
use std::time::Instant;

use flux_api::content::HoldRequest;
use flux_model::blobref::Blobref;
use flux_model::treeobj::References;

use crate::error::StoreError;
use crate::log::BlobLog;

/// A look that is going on.
#[derive(Debug)]
pub(crate) struct Hold {
    /// What was asked for; each must be a directory.
    asked: Vec<Blobref>,
    dirs: Vec<Blobref>,
    data: Vec<Blobref>,
    /// Directories that were looked through.
    seen: BTreeSet<i64>,
}

impl Hold {
    /// Begins to look.
    ///
    /// # Errors
    /// Says which text is no blobref.
    pub(crate) fn begin(request: &HoldRequest) -> Result<Self, String> {
        let read = |texts: &[String]| -> Result<Vec<Blobref>, String> {
            let each = texts.iter().map(|text| text.parse::<Blobref>());
            each.collect::<Result<_, _>>().map_err(|error| error.to_string())
        };
        let (asked, data) = (read(&request.dirs)?, read(&request.data)?);
        Ok(Self { asked, dirs: Vec::new(), data, seen: BTreeSet::new() })
    }

    /// Goes on until `deadline`; true when everything is there.
    ///
    /// # Errors
    /// When a blob is missing, or is no directory where it has to be one, or the file cannot be read.
    pub(crate) fn step(
        &mut self,
        log: &mut BlobLog,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        loop {
            if let Some(blobref) = self.data.pop() {
                find(log, &blobref)?;
            } else if let Some(blobref) = self.asked.pop() {
                // That it is alive does not say that it is a directory.
                let row = find(log, &blobref)?;
                self.look_into(log, &blobref, row)?;
            } else if let Some(blobref) = self.dirs.pop() {
                let row = find(log, &blobref)?;
                if !log.marks.is_settled(row) {
                    self.look_into(log, &blobref, row)?;
                }
            } else {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    fn look_into(&mut self, log: &BlobLog, blobref: &Blobref, row: i64) -> Result<(), StoreError> {
        if !self.seen.insert(row) {
            return Ok(());
        }
        let blob = log.load(blobref.digest())?;
        let found = References::of(&blob).map_err(|error| StoreError::NoDirectory {
            blobref: *blobref,
            text: error.to_string(),
        })?;
        if !log.marks.is_settled(row) {
            self.dirs.extend(found.dirs);
            self.data.extend(found.data);
        }
        Ok(())
    }
}

/// A blob's row, which is kept from now on.
fn find(log: &mut BlobLog, blobref: &Blobref) -> Result<i64, StoreError> {
    let here = if blobref.alg() == log.hash() { log.row_of(blobref.digest())? } else { None };
    let row = here.ok_or(StoreError::Collected(*blobref))?;
    log.marks.hold(row);
    Ok(row)
}
