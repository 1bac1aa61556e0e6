//! How requests are signed (RFC 39): by the owner of an instance with mechanism `none`, by its
//! guests as the site has configured it.

use flux_api::RpcError;
use flux_model::sign::{Mechanism, wrap_none};
use flux_proto::Errno;
use flux_sign::{SignConfig, Signer, VerifyError, munge::MungeError};

fn refused(errno: Errno, text: impl std::fmt::Display) -> RpcError {
    RpcError::new(errno, text.to_string())
}

/// A way to sign for the current user.
#[derive(Debug)]
pub(crate) struct Signing {
    uid: u32,
    mechanism: Option<Mechanism>,
    /// Absent where mechanism `none` is used whatever the site has configured.
    signer: Option<Signer>,
}

impl Signing {
    /// What is right for user `uid` of an instance of `owner`.
    ///
    /// # Errors
    /// There is no configuration, or it has mistakes.
    pub(crate) fn of_user(uid: u32, owner: u32) -> Result<Self, RpcError> {
        if uid == owner {
            return Ok(Self { uid, mechanism: None, signer: None });
        }
        let config = SignConfig::of_user().map_err(|error| refused(Errno::EINVAL, error))?;
        Ok(Self { uid, mechanism: None, signer: Some(Signer::new(config)) })
    }

    /// As the user asks for, by type and pattern of configuration files.
    ///
    /// # Errors
    /// The type is unknown, or there is no configuration, or it has mistakes.
    pub(crate) fn of_choice(
        uid: u32,
        kind: Option<&str>,
        pattern: Option<&str>,
    ) -> Result<Self, RpcError> {
        let mechanism = match kind {
            None => None,
            Some("none") => return Ok(Self { uid, mechanism: None, signer: None }),
            Some("munge") => Some(Mechanism::Munge),
            Some(other) => {
                let text = format!("unknown sign type '{other}' (known: munge, none)");
                return Err(refused(Errno::EINVAL, text));
            }
        };
        let config = match pattern {
            None => SignConfig::of_user(),
            Some(pattern) => SignConfig::load(pattern, flux_sign::trust::Trust::and(uid)),
        };
        let config = config.map_err(|error| refused(Errno::EINVAL, error))?;
        Ok(Self { uid, mechanism, signer: Some(Signer::new(config)) })
    }

    /// Signs a jobspec.
    ///
    /// # Errors
    /// The type is not allowed, or MUNGE does not answer.
    pub(crate) fn sign(&mut self, jobspec: &[u8]) -> Result<String, RpcError> {
        let Some(signer) = &mut self.signer else { return Ok(wrap_none(jobspec, self.uid)) };
        signer.sign(jobspec, self.uid, self.mechanism).map_err(|error| {
            let errno = match &error {
                VerifyError::Munge(MungeError::Library | MungeError::Daemon(_)) => Errno::ENOENT,
                _ => Errno::EINVAL,
            };
            refused(errno, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_signs_with_none_and_needs_no_configuration() {
        let text = Signing::of_user(7, 7).unwrap().sign(b"{}").unwrap();
        assert_eq!(flux_model::sign::unwrap(&text).unwrap().verify_none(7), Ok(()));
    }

    #[test]
    fn a_choice_may_be_unknown_or_lack_its_configuration() {
        assert!(Signing::of_choice(7, Some("gpg"), None).unwrap_err().message().contains("gpg"));
        let pattern = Some("/nonexistent/*.toml");
        let error = Signing::of_choice(7, Some("munge"), pattern).unwrap_err();
        assert!(error.message().contains("no [sign] table"), "{}", error.message());
        Signing::of_choice(7, Some("none"), None).unwrap();
    }
}
