//! The table `[resource]` of the configuration.

use flux_api::RpcError;
use flux_id::{Fsd, Hostlist, Idset};
use flux_model::resource_set::{ResourceSet, VerifyMode, VerifyRules};
use flux_proto::Errno;
use serde_json::{Map, Value};

/// Entries kept for `resource.journal`, unless configured.
pub(crate) const JOURNAL_MAX: usize = 100_000;

/// The table, checked.
#[derive(Debug, Clone)]
pub(crate) struct ResourceConfig {
    /// R made from `[[resource.config]]`.
    pub(crate) config: Option<ResourceSet>,
    /// Idset or hostlist of ranks that are not scheduled.
    pub(crate) exclude: Option<String>,
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
        let mut this = Self::default();
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

fn verify(value: &Value) -> Result<VerifyRules, RpcError> {
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

/// R of `[[resource.config]]`: hosts get ranks as they are named first; later entries add to or
/// replace what earlier ones gave.
fn array(value: &Value) -> Result<ResourceSet, RpcError> {
    build(value).map_err(|error| {
        RpcError::new(Errno::EINVAL, format!("error parsing [resource.config] array: {error}"))
    })
}

fn build(value: &Value) -> Result<ResourceSet, String> {
    let entries = value.as_array().ok_or("expected an array of tables")?;
    let mut hosts = Hostlist::new();
    let mut lists: Vec<Hostlist> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let entry = entry.as_object().ok_or_else(|| format!("config[{at}]: expected a table"))?;
        for key in entry.keys() {
            if !["hosts", "cores", "gpus", "properties"].contains(&key.as_str()) {
                return Err(format!("config[{at}]: unknown key '{key}'"));
            }
        }
        let names = entry
            .get("hosts")
            .and_then(Value::as_str)
            .ok_or_else(|| format!("config[{at}]: hosts is missing or no string"))?;
        let list: Hostlist =
            names.parse().map_err(|_| format!("config[{at}]: invalid hostlist '{names}'"))?;
        let known = hosts.index();
        for host in list.iter().filter(|host| !known.contains(host)) {
            hosts.push(&host).map_err(|error| format!("config[{at}]: {error}"))?;
        }
        lists.push(list);
    }
    if hosts.is_empty() {
        return Err("no hosts configured".to_string());
    }
    let index = hosts.index();
    let mut cores: Vec<Idset> = vec![Idset::new(); hosts.len()];
    let mut gpus = cores.clone();
    let mut properties: std::collections::BTreeMap<String, Idset> =
        std::collections::BTreeMap::new();
    for (at, (entry, list)) in entries.iter().zip(&lists).enumerate() {
        let ids = |key: &str| -> Result<Option<Idset>, String> {
            let Some(value) = entry.get(key) else { return Ok(None) };
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            shown
                .parse()
                .map(Some)
                .map_err(|_| format!("config[{at}]: invalid idset {key}='{shown}'"))
        };
        let (own_cores, own_gpus) = (ids("cores")?, ids("gpus")?);
        let mut ranks = Vec::new();
        for rank in list.iter().filter_map(|host| index.find(&host)) {
            if let Some(own) = &own_cores {
                cores[rank].clone_from(own);
            }
            if let Some(own) = &own_gpus {
                gpus[rank].clone_from(own);
            }
            ranks.push(u32::try_from(rank).map_err(|_| "too many hosts".to_string())?);
        }
        let ranks: Idset = ranks.into_iter().collect();
        let names = entry.get("properties").map_or(Ok(&[][..]), |value| {
            let list = value.as_array().map(Vec::as_slice);
            list.ok_or_else(|| format!("config[{at}]: properties: expected an array of strings"))
        })?;
        for name in names {
            let name = name
                .as_str()
                .ok_or_else(|| format!("config[{at}]: properties: expected an array of strings"))?;
            properties.entry(name.to_string()).or_default().insert_all(&ranks);
        }
    }
    let bare = |rank: &usize| cores[*rank].is_empty() && gpus[*rank].is_empty();
    let without: Vec<String> =
        (0..hosts.len()).filter(bare).filter_map(|at| hosts.nth(at)).collect();
    if !without.is_empty() {
        let names = Hostlist::from_hosts(&without).map_err(|error| error.to_string())?;
        return Err(format!("resource.config: {names} assigned no resources"));
    }
    let nodes = hosts.iter().zip(cores.into_iter().zip(gpus)).zip(0_u32..).map(
        |((host, (cores, gpus)), rank)| {
            let children = flux_model::resource_set::Children { cores, gpus };
            (rank, host, std::sync::Arc::new(children))
        },
    );
    let mut set = ResourceSet::from_nodes(nodes).map_err(|error| error.to_string())?;
    for (name, ranks) in &properties {
        let at = entries.iter().position(|entry| {
            let names = entry.get("properties").and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|have| have.as_str() == Some(name)))
        });
        set.set_property(name, ranks).map_err(|_| {
            format!("config[{}]: invalid property \"{name}\"", at.unwrap_or_default())
        })?;
    }
    Ok(set)
}
