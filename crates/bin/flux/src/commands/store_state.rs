//! One line when the store of the instance does not take writes.

use flux_api::body::AnyObject;
use flux_api::content::Status;
use flux_client::{Client, To};

/// What is wrong with the store, if anything is.
pub(super) fn trouble(client: &Client) -> Option<String> {
    // Who can't be asked about it has nothing to say about it.
    let status = client.call::<Status>(To::Rank(0), &AnyObject::default()).ok()?;
    let what = match status.state.as_str() {
        "ok" => return None,
        "full" => "Storage is full, new jobs are refused",
        _ => "Storage is failing, new jobs are refused",
    };
    Some(format!("{what}: {}", status.text))
}
