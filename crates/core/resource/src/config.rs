//! The table `[resource]` of the configuration.

use flux_api::RpcError;
use flux_id::Fsd;
use flux_model::resource_set::{QueueHosts, ResourceSet, VerifyMode, VerifyRules, queue_hosts};
use flux_proto::Errno;
use serde_json::{Map, Value, json};

/// Entries kept for `resource.journal`, unless configured.
pub(crate) const JOURNAL_MAX: usize = 100_000;

/// The table, checked.
#[derive(Debug, Clone)]
pub(crate) struct ResourceConfig {
    /// R made from `[[resource.config]]`.
    pub(crate) config: Option<ResourceSet>,
    /// Idset or hostlist of ranks that are not scheduled.
    pub(crate) exclude: Option<String>,
    /// Hosts of queues.
    pub(crate) queues: QueueHosts,
    pub(crate) verify: VerifyRules,
    /// Verification was asked for in so many words.
    pub(crate) verify_explicit: bool,
    pub(crate) noverify: bool,
    pub(crate) rediscover: bool,
    pub(crate) journal_max: usize,
}

impl Default for ResourceConfig {
    fn default() -> Self {
        Self {
            config: None,
            exclude: None,
            queues: QueueHosts::new(),
            verify: VerifyRules::default(),
            verify_explicit: false,
            noverify: false,
            rediscover: false,
            journal_max: JOURNAL_MAX,
        }
    }
}

impl ResourceConfig {
    /// Reads the table.
    ///
    /// # Errors
    /// EINVAL with what is wrong.
    pub(crate) fn read(config: &Map<String, Value>) -> Result<Self, RpcError> {
        let mut this = Self { queues: queue_hosts(config), ..Self::default() };
        let Some(table) = config.get("resource") else { return Ok(this) };
        let table = table.as_object().ok_or_else(|| parse_error("expected a table"))?;
        for (key, value) in table {
            match key.as_str() {
                "path" | "scheduling" => drop(text(key, value)?),
                "config" => this.config = Some(array(value)?),
                "exclude" => this.exclude = Some(text(key, value)?.to_string()),
                "verify" => {
                    this.verify = verify(value)?;
                    this.verify_explicit = true;
                }
                "noverify" => this.noverify = boolean(key, value)?,
                "norestrict" | "no-update-watch" => drop(boolean(key, value)?),
                "rediscover" => this.rediscover = boolean(key, value)?,
                "journal-max" => {
                    this.journal_max = value
                        .as_u64()
                        .and_then(|n| usize::try_from(n).ok())
                        .filter(|n| *n > 0)
                        .ok_or_else(|| parse_error("journal-max: expected a positive integer"))?;
                }
                "history" => {
                    if text(key, value)?.parse::<Fsd>().is_err() {
                        return Err(RpcError::new(Errno::EINVAL, "invalid history time"));
                    }
                }
                _ => return Err(parse_error(&format!("{key}: unknown key"))),
            }
        }
        if table.contains_key("scheduling")
            && !table.contains_key("path")
            && !table.contains_key("config")
        {
            let text = "resource.scheduling requires resource.path or [resource.config]";
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        Ok(this)
    }
}

fn parse_error(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, format!("error parsing [resource] configuration: {text}"))
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, RpcError> {
    value.as_str().ok_or_else(|| parse_error(&format!("{key}: expected a string")))
}

fn boolean(key: &str, value: &Value) -> Result<bool, RpcError> {
    value.as_bool().ok_or_else(|| parse_error(&format!("{key}: expected true or false")))
}

/// Rules as [`verify`] reads them.
pub(crate) fn rules_to_value(rules: VerifyRules) -> Value {
    let VerifyRules { hostname, core, gpu } = rules;
    json!({"hostname": hostname.name(), "core": core.name(), "gpu": gpu.name()})
}

/// Reads `resource.verify`.
pub(crate) fn verify(value: &Value) -> Result<VerifyRules, RpcError> {
    if let Some(on) = value.as_bool() {
        return Ok(VerifyRules::all(if on { VerifyMode::Strict } else { VerifyMode::Ignore }));
    }
    let table = value.as_object().ok_or_else(|| parse_error("verify: expected bool or table"))?;
    let mode = |name: &str| -> Result<Option<VerifyMode>, RpcError> {
        let Some(value) = table.get(name) else { return Ok(None) };
        let word = text("verify", value)?;
        word.parse().map(Some).map_err(|_| parse_error(&format!("verify.{name}: '{word}'")))
    };
    if let Some(bad) =
        table.keys().find(|key| !["default", "hostname", "core", "gpu"].contains(&key.as_str()))
    {
        return Err(parse_error(&format!("verify.{bad}: unknown key")));
    }
    let mut rules = if table.is_empty() {
        VerifyRules::all(VerifyMode::Strict)
    } else {
        mode("default")?.map_or_else(VerifyRules::default, VerifyRules::all)
    };
    rules.hostname = mode("hostname")?.unwrap_or(rules.hostname);
    rules.core = mode("core")?.unwrap_or(rules.core);
    rules.gpu = mode("gpu")?.unwrap_or(rules.gpu);
    Ok(rules)
}

/// R of `[[resource.config]]`.
fn array(value: &Value) -> Result<ResourceSet, RpcError> {
    ResourceSet::from_config(value).map_err(|error| RpcError::new(Errno::EINVAL, error.to_string()))
}
