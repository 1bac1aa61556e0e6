//! Who may connect to the local socket: the `[access]` table of the configuration.

use flux_proto::{Cred, Errno, Rolemask};
use serde_json::{Map, Value};

/// Why an `[access]` table is refused. On the wire: EINVAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A key that is not known there.
    #[error("[access]: unknown key '{0}'")]
    UnknownKey(String),
    /// A value of the wrong type.
    #[error("[access]: '{key}' must be {wanted}")]
    Type {
        /// The key.
        key: String,
        /// What it must be.
        wanted: &'static str,
    },
}

/// The policy. By default only the owner may connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Other users may connect, as guests.
    pub allow_guest_user: bool,
    /// Root connects with the owner's role.
    pub allow_root_owner: bool,
    /// Guests see only what is theirs; for the services that list jobs.
    pub private_mode: bool,
    /// Login names with the role ADMIN; names are looked up by the host.
    pub admin_users: Vec<String>,
    /// Groups whose listed members have the role ADMIN.
    pub admin_groups: Vec<String>,
}

fn flag(key: &str, value: &Value) -> Result<bool, AccessError> {
    value.as_bool().ok_or_else(|| AccessError::Type { key: key.to_string(), wanted: "a boolean" })
}

fn table<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, AccessError> {
    value.as_object().ok_or_else(|| AccessError::Type { key: key.to_string(), wanted: "a table" })
}

fn names(key: &str, value: &Value) -> Result<Vec<String>, AccessError> {
    let wanted = "an array of strings";
    let error = || AccessError::Type { key: key.to_string(), wanted };
    let list = value.as_array().ok_or_else(error)?;
    list.iter().map(|name| name.as_str().map(str::to_string).ok_or_else(error)).collect()
}

impl Access {
    /// Reads the `access` table of a configuration; without one the defaults hold.
    ///
    /// # Errors
    /// For keys and types that are not known there.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, AccessError> {
        let mut access = Self::default();
        let Some(value) = config.get("access") else {
            return Ok(access);
        };
        for (key, value) in table("access", value)? {
            match key.as_str() {
                "allow-guest-user" => access.allow_guest_user = flag(key, value)?,
                "allow-root-owner" => access.allow_root_owner = flag(key, value)?,
                "private-mode" => access.private_mode = flag(key, value)?,
                "roles" => access.roles(table(key, value)?)?,
                _ => return Err(AccessError::UnknownKey(key.clone())),
            }
        }
        Ok(access)
    }

    fn roles(&mut self, roles: &Map<String, Value>) -> Result<(), AccessError> {
        for (role, value) in roles {
            if role != "admin" {
                return Err(AccessError::UnknownKey(format!("roles.{role}")));
            }
            for (key, value) in table("roles.admin", value)? {
                let path = format!("roles.admin.{key}");
                match key.as_str() {
                    "users" => self.admin_users = names(&path, value)?,
                    "groups" => self.admin_groups = names(&path, value)?,
                    _ => return Err(AccessError::UnknownKey(path)),
                }
            }
        }
        Ok(())
    }

    /// The credentials of a connection of `userid` to a broker of `owner`.
    ///
    /// # Errors
    /// EPERM for guests, unless they are allowed.
    pub fn admit(&self, owner: u32, userid: u32) -> Result<Cred, Errno> {
        if userid == owner || (userid == 0 && self.allow_root_owner) {
            Ok(Cred { userid, rolemask: Rolemask::OWNER | Rolemask::LOCAL })
        } else if self.allow_guest_user {
            Ok(Cred { userid, rolemask: Rolemask::USER | Rolemask::LOCAL })
        } else {
            Err(Errno::EPERM)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn access(value: Value) -> Result<Access, AccessError> {
        let mut config = Map::new();
        config.insert("access".into(), value);
        Access::from_config(&config)
    }

    #[test]
    fn guests_and_root_are_refused_by_default() {
        let access = Access::from_config(&Map::new()).unwrap();
        assert_eq!(access.admit(1000, 1000).unwrap().rolemask.0, 5);
        assert_eq!(access.admit(1000, 1001), Err(Errno::EPERM));
        assert_eq!(access.admit(1000, 0), Err(Errno::EPERM));
    }

    #[test]
    fn roles_follow_the_table() {
        let allowed =
            access(json!({ "allow-guest-user": true, "allow-root-owner": true })).unwrap();
        assert_eq!(allowed.admit(1000, 1001).unwrap().rolemask.0, 6);
        let root = allowed.admit(1000, 0).unwrap();
        assert_eq!((root.userid, root.rolemask.0), (0, 5));
        let admin =
            access(json!({ "roles": { "admin": { "users": ["amy"], "groups": ["ops"] } } }));
        assert_eq!(admin.unwrap().admin_users, ["amy"]);
    }

    #[test]
    fn unknown_keys_and_types_are_refused() {
        for bad in [
            json!({ "allow-guest": true }),
            json!({ "allow-guest-user": 1 }),
            json!({ "roles": { "root": {} } }),
            json!({ "roles": { "admin": { "uids": [] } } }),
            json!({ "roles": { "admin": { "users": [1] } } }),
            json!([]),
        ] {
            assert!(access(bad.clone()).is_err(), "{bad}");
        }
    }
}
