//! `content.restore` and `content.dump`: an archive that becomes the store before a broker serves,
//! and one that is made of it afterwards.

use std::os::unix::fs::symlink;
use std::path::Path;

use flux_model::blobref::HashAlg;

use super::{dump, restore};

/// Link to the newest dump that `auto` made.
const NEWEST: &str = "RESTORE";

/// Reads the archive that `content.restore` names into the store of a state directory. `auto` is
/// the last one that `auto` has dumped, if there is one; it is restored once.
///
/// # Errors
/// The sentence on why not.
pub(crate) fn before(statedir: &Path, hash: HashAlg, wanted: Option<&str>) -> Result<(), String> {
    let about = |error: String| format!("content.restore: {error}");
    match wanted {
        None | Some("") => Ok(()),
        Some("auto") => {
            let link = statedir.join("dump").join(NEWEST);
            if !link.exists() {
                return Ok(());
            }
            restore::stopped(statedir, hash, &link.display().to_string()).map_err(about)?;
            std::fs::remove_file(&link).map_err(|error| about(error.to_string()))
        }
        Some(path) => restore::stopped(statedir, hash, path).map_err(about),
    }
}

/// Writes the archive that `content.dump` names.
///
/// # Errors
/// The sentence on why not.
pub(crate) fn after(statedir: &Path, wanted: Option<&str>) -> Result<(), String> {
    let about = |error: String| format!("content.dump: {error}");
    match wanted {
        None | Some("") => Ok(()),
        Some("auto") => {
            let directory = statedir.join("dump");
            let name = format!("{}.tgz", jiff::Zoned::now().strftime("%Y%m%d_%H%M%S"));
            std::fs::create_dir_all(&directory).map_err(|error| about(error.to_string()))?;
            let path = directory.join(&name);
            dump::stopped(statedir, &path.display().to_string()).map_err(about)?;
            let link = directory.join(NEWEST);
            std::fs::remove_file(&link).ok();
            symlink(&name, &link).map_err(|error| about(error.to_string()))
        }
        Some(path) => dump::stopped(statedir, path).map_err(about),
    }
}
