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
            let room = message.bytes().map_or(0, |text| text.len());
            spaced_json(Message::response_to(message), &body, room + 256)
        }
        Err(error) => rpc::refusal(message, &error),
    }
}

/// A body printed with spaces after `,` and `:`, as the ping response is.
fn spaced_json(message: Message, body: &Map<String, Value>, room: usize) -> Message {
    let mut text = String::with_capacity(room);
    text.push('{');
    for (index, (key, value)) in body.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push_str(": ");
        match value {
            // Padding may be long.
            Value::String(value) if is_plain(value) => {
                text.push('"');
                text.push_str(value);
                text.push('"');
            }
            value => text.push_str(&value.to_string()),
        }
    }
    text.push('}');
    message.with_text(&text)
}

/// Whether JSON shows a text as it is. All of it is looked at, several bytes at a time.
fn is_plain(text: &str) -> bool {
    !text
        .bytes()
        .fold(false, |escape, byte| escape | (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_answered_with_what_it_held_and_spaces() {
        let body =
            json!({"seq": 1, "pad": "a\"b\\\n", "more": {"x": [1, "é"]}, "long": "y".repeat(99)});
        let mut message = Message::request("x.ping").with_json(&body);
        message.cred = flux_proto::Cred { userid: 5, rolemask: Rolemask::OWNER };
        let response = ping(&message, &RouteId::from("abcdefghij"), 3);
        let text = response.text().expect("text");
        let start = r#"{"seq": 1, "pad": "a\"b\\\n", "more": {"x":[1,"é"]}, "long": "yyy"#;
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with(r#", "userid": 5, "rolemask": 1, "rank": 3}"#), "{text}");
        let back: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(back["long"], body["long"]);
    }
}
