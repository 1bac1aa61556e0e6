//! The default methods that the services of the broker itself share with every module.

use flux_api::{RpcError, rpc};
use flux_proto::{Errno, Message, Rolemask, RouteId};
use serde_json::{Map, Value, json};

/// The refusal for a caller without the role (the texts are flux-core's).
#[must_use]
pub fn denied(role: Rolemask) -> RpcError {
    let text = if role == Rolemask::OWNER {
        "Request requires owner credentials"
    } else {
        "Request rejected due to insufficient privilege"
    };
    RpcError::new(Errno::EPERM, text)
}

/// The response to a `ping` that was received by the service with route id `id` on `rank`: the
/// same object with the way it took, printed with spaces after `,` and `:`.
#[must_use]
pub fn ping(message: &Message, id: &RouteId, rank: u32) -> Message {
    let user = Rolemask(Rolemask::OWNER.0 | Rolemask::USER.0);
    let result = if message.cred.rolemask.allows(user) {
        message
            .json::<Map<String, Value>>()
            .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
    } else {
        Err(denied(user))
    };
    match result {
        Ok(mut body) => {
            let mut route: Vec<String> = message.routes.iter().map(RouteId::short).collect();
            route.push(id.short());
            body.insert("route".into(), Value::String(route.join("!")));
            body.insert("userid".into(), json!(message.cred.userid));
            body.insert("rolemask".into(), json!(message.cred.rolemask.0));
            body.insert("rank".into(), json!(rank));
            spaced_json(Message::response_to(message), &body)
        }
        Err(error) => rpc::refusal(message, &error),
    }
}

/// A body printed with spaces after `,` and `:`, as the ping response is.
fn spaced_json(message: Message, body: &Map<String, Value>) -> Message {
    let pairs: Vec<String> =
        body.iter().map(|(key, value)| format!("{}: {value}", Value::from(key.as_str()))).collect();
    message.with_text(&format!("{{{}}}", pairs.join(", ")))
}

/// Carries out a `debug` request on `bits`; the answer's body.
pub fn debug(bits: &mut u32, message: &Message) -> Result<Value, RpcError> {
    #[derive(serde::Deserialize)]
    struct Debug {
        op: String,
        flags: u32,
    }
    let body: Debug =
        message.json().map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?;
    match body.op.as_str() {
        "setbit" => *bits |= body.flags,
        "clrbit" => *bits &= !body.flags,
        "set" => *bits = body.flags,
        "clr" => *bits = 0,
        _ => return Err(RpcError::bare(Errno::EPROTO)),
    }
    Ok(json!({ "flags": *bits }))
}
