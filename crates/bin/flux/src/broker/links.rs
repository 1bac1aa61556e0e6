//! How links to other brokers are made: `[tbon]` of the configuration, each key overridden by the
//! attribute `tbon.KEY`.

use std::time::Duration;

use flux_id::fsd;
use flux_lifecycle::Attributes;
use flux_wire::{ConnectOptions, Keepalive};
use serde_json::{Map, Value};

/// Settings of the command line that the broker itself reads.
const OWN: [&str; 3] = ["torpid_min", "torpid_max", "rejoin-timeout"];

/// Settings of `[tbon]` from the command line.
pub(crate) fn settings(attributes: &Attributes) -> Map<String, Value> {
    let given = |name: &&str| {
        let value = attributes.given(&format!("tbon.{name}"))?;
        Some(((*name).to_string(), Value::from(value)))
    };
    OWN.iter().filter_map(given).collect()
}

/// Lets the attributes show what the configuration sets.
pub(crate) fn show(attributes: &mut Attributes, config: &Map<String, Value>) {
    let table = config.get("tbon").and_then(Value::as_object);
    for (name, value) in table.into_iter().flatten() {
        let name = format!("tbon.{name}");
        if Attributes::is_known(&name) && attributes.given(&name).is_none() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            attributes.set(&name, text);
        }
    }
}

/// How long a parent that is lost is waited for before another is looked for: a service manager has
/// started it again by then.
const REPARENT: Duration = Duration::from_secs(5);

struct Settings<'a> {
    attributes: &'a Attributes,
    table: Option<&'a Value>,
}

impl Settings<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.attributes.given(&format!("tbon.{name}")) {
            return Some(Value::from(value));
        }
        self.table?.get(name).cloned()
    }

    /// A duration: a number of seconds, or text with a unit (RFC 23). Infinity is no limit.
    fn duration(&self, name: &str, default: Duration) -> Result<Option<Duration>, String> {
        let Some(value) = self.get(name) else { return Ok(Some(default)) };
        let seconds = match &value {
            Value::String(text) => fsd::parse(text).ok(),
            other => other.as_f64().filter(|number| *number >= 0.0),
        };
        let seconds = seconds.ok_or_else(|| format!("tbon.{name}: {value} is not a duration"))?;
        Ok(Duration::try_from_secs_f64(seconds).ok())
    }

    fn number(&self, name: &str, default: u32) -> Result<u32, String> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        let number = number.filter(|number| *number > 0);
        number.ok_or_else(|| format!("tbon.{name}: {value} is not a number above 0"))
    }
}

/// Timeouts of connections.
///
/// # Errors
/// The sentence to show for a setting that is none.
pub(crate) fn connections(
    attributes: &Attributes,
    config: &Map<String, Value>,
) -> Result<ConnectOptions, String> {
    let settings = Settings { attributes, table: config.get("tbon") };
    let mut options = ConnectOptions::default();
    // Without hosts in the configuration nobody has said anything of addresses.
    if let Some(bootstrap) = config.get("bootstrap") {
        options.ipv6 = bootstrap.get("enable_ipv6").and_then(Value::as_bool).unwrap_or(false);
    }
    let whole = |limit: Option<Duration>| {
        // The kernel counts whole seconds, and at least one.
        limit.map(|limit| Duration::from_secs(limit.as_secs().clamp(1, 32_767)))
    };
    options.timeout = settings.duration("connect_timeout", Duration::from_secs(30))?;
    options.tcp.user_timeout = settings.duration("tcp_user_timeout", Duration::from_secs(20))?;
    // Probes as the kernel sends them, which a site may have tuned, unless they are set here. A link
    // that is in use is watched by the pulses of children and the time limit above.
    let given = |name| settings.get(name).is_some();
    let time = |name| -> Result<Option<Duration>, String> {
        if given(name) { Ok(whole(settings.duration(name, Duration::ZERO)?)) } else { Ok(None) }
    };
    options.tcp.keepalive = Some(Keepalive {
        idle: time("keepalive_idle")?,
        interval: time("keepalive_interval")?,
        count: match given("keepalive_count") {
            true => Some(settings.number("keepalive_count", 1)?.min(127)),
            false => None,
        },
    });
    // The three together say how soon a node that was powered off is noticed, in use or not.
    if let Some(Keepalive { idle: Some(idle), interval: Some(interval), count: Some(count) }) =
        options.tcp.keepalive
        && !given("tcp_user_timeout")
    {
        options.tcp.user_timeout = Some(idle + interval * count);
    }
    Ok(options)
}

/// Seconds after which a broker whose parent is lost goes to its grandparent; nothing: it waits.
///
/// # Errors
/// The sentence to show for a setting that is none.
pub(crate) fn reparent(
    attributes: &Attributes,
    config: &Map<String, Value>,
) -> Result<Option<f64>, String> {
    let settings = Settings { attributes, table: config.get("tbon") };
    let on = match settings.get("reparent") {
        None => false,
        Some(Value::Bool(on)) => on,
        Some(Value::String(text)) if matches!(text.as_str(), "1" | "true") => true,
        Some(Value::String(text)) if matches!(text.as_str(), "0" | "false") => false,
        Some(other) => return Err(format!("tbon.reparent: {other} is neither true nor false")),
    };
    let after = settings.duration("reparent-timeout", REPARENT)?;
    let after = after.ok_or("tbon.reparent-timeout: must be a time that ends")?;
    Ok(on.then_some(after.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attribute_comes_before_the_configuration_and_that_before_the_default() {
        let config = json!({"tbon": {"tcp_user_timeout": "5s", "connect_timeout": 3,
            "keepalive_count": 4, "keepalive_idle": "500ms"}});
        let mut attributes = Attributes::new();
        attributes.set_option("tbon.connect_timeout", "1m").unwrap();
        attributes.set_option("tbon.torpid_max", "7s").unwrap();
        let options = connections(&attributes, config.as_object().unwrap()).unwrap();
        assert_eq!(options.timeout, Some(Duration::from_secs(60)));
        assert_eq!(options.tcp.user_timeout, Some(Duration::from_secs(5)));
        let keepalive = options.tcp.keepalive.unwrap();
        assert_eq!(keepalive.idle, Some(Duration::from_secs(1)));
        assert_eq!((keepalive.interval, keepalive.count), (None, Some(4)));
        assert_eq!(settings(&attributes), *json!({"torpid_max": "7s"}).as_object().unwrap());
        let ipv6 = |config: Value| {
            connections(&Attributes::new(), config.as_object().unwrap()).unwrap().ipv6
        };
        assert!(ipv6(json!({})) && !ipv6(json!({"bootstrap": {}})));
        assert!(ipv6(json!({"bootstrap": {"enable_ipv6": true}})));
        let none = connections(&Attributes::new(), &Map::new()).unwrap();
        assert_eq!(none.tcp.user_timeout, Some(Duration::from_secs(20)));
        let kernels = Keepalive { idle: None, interval: None, count: None };
        assert_eq!(none.tcp.keepalive, Some(kernels));
        let guides = json!({"tbon": {"keepalive_count": 12, "keepalive_interval": 10,
            "keepalive_idle": 30}});
        let guides = connections(&Attributes::new(), guides.as_object().unwrap()).unwrap();
        assert_eq!(guides.tcp.user_timeout, Some(Duration::from_secs(150)));
    }

    #[test]
    fn what_is_no_duration_is_named() {
        let config = json!({"tbon": {"tcp_user_timeout": "soon"}});
        let error = connections(&Attributes::new(), config.as_object().unwrap()).unwrap_err();
        assert_eq!(error, "tbon.tcp_user_timeout: \"soon\" is not a duration");
    }
}
