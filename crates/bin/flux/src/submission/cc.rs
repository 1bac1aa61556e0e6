//! Carbon copies: `--cc` and `--bcc` submit a job for each id of a set.

use flux_id::Idset;

use super::SubmitError;

/// Most copies of one command line.
const MAX_COPIES: u64 = 1_000_000;

/// Which copies to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copies {
    ids: Vec<u32>,
    /// Tell each job its id as FLUX_JOB_CC.
    pub(crate) tell: bool,
}

impl Copies {
    /// Reads `--cc` and `--bcc`; `None` when neither was given.
    ///
    /// # Errors
    /// Both given, or a bad idset.
    pub(crate) fn read(cc: Option<&str>, bcc: Option<&str>) -> Result<Option<Copies>, SubmitError> {
        match (cc, bcc) {
            (Some(_), Some(_)) => Err(SubmitError::BothCopies),
            (Some(ids), None) => Ok(Some(Copies { ids: idset("cc", ids)?, tell: true })),
            (None, Some(ids)) => Ok(Some(Copies { ids: idset("bcc", ids)?, tell: false })),
            (None, None) => Ok(None),
        }
    }

    /// The ids in ascending order.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// Replaces `{cc}` in a word.
pub(crate) fn substitute(word: &str, id: u32) -> String {
    word.replace("{cc}", &id.to_string())
}

/// The ids of an idset (RFC 22), ascending.
fn idset(option: &'static str, text: &str) -> Result<Vec<u32>, SubmitError> {
    let wrong = || SubmitError::Idset(option, text.to_owned());
    let ids: Idset = text.parse().map_err(|_| wrong())?;
    if ids.is_empty() {
        return Err(wrong());
    }
    ids.expand(MAX_COPIES).map_err(|_| SubmitError::TooMany(MAX_COPIES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_ascending_ids() {
        let ids = |text| Copies::read(Some(text), None).map(|c| c.expect("given").ids);
        assert_eq!(ids("0-3"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(ids("[1-2,5]"), Ok(vec![1, 2, 5]));
        for wrong in ["", "x", "3-1", "01", "1,", "[1", "-1", "99999999999"] {
            assert!(ids(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ids("0-4000000"), Err(SubmitError::TooMany(MAX_COPIES)));
        assert_eq!(Copies::read(Some("1"), Some("1")), Err(SubmitError::BothCopies));
        assert_eq!(Copies::read(None, None), Ok(None));
    }
}
