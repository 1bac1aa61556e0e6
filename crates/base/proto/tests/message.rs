//! Building and reading messages.

use flux_proto::{Cred, Errno, Flags, Message, NODEID_ANY, PayloadError, Rolemask, RouteId};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize, Debug, PartialEq)]
struct Name {
    name: String,
}

#[test]
fn a_new_request_has_the_documented_defaults() {
    let request = Message::request("attr.get");
    assert_eq!((request.nodeid(), request.matchtag()), (NODEID_ANY, 0));
    assert_eq!(request.cred, Cred::UNKNOWN);
    assert_eq!(request.flags, Flags::TOPIC | Flags::ROUTE);
    assert_eq!((request.service(), request.method()), ("attr", "get"));
    assert_eq!(Message::request("a.b.c").method(), "b.c");
    assert_eq!((Message::request("a").service(), Message::request("a").method()), ("a", ""));
}

#[test]
fn a_response_copies_what_leads_back_to_the_requester() {
    let mut request = Message::request("a.b").with_text("x").with_upstream(3).with_streaming();
    request.flags.insert(Flags::USER1);
    request.set_matchtag(7);
    request.push_route("client".into());
    request.cred = Cred::new(1, Rolemask::OWNER);
    let response = Message::response_to(&request);
    assert_eq!((response.topic(), response.matchtag(), response.errnum()), ("a.b", 7, Errno::OK));
    assert_eq!(response.routes, request.routes);
    assert_eq!(response.flags.0, request.flags.0 & !Flags::PAYLOAD.0);
    assert_eq!((response.payload, response.cred), (None, Cred::UNKNOWN));
}

#[test]
fn an_error_response_shows_its_text_or_the_standard_one() {
    let request = Message::request("a.b").with_no_response();
    let plain = Message::error_to(&request, Errno::ENOENT, None);
    assert_eq!((plain.errnum(), plain.error_text()), (Errno::ENOENT, "No such file or directory"));
    assert!(!plain.no_response());
    let telling = Message::error_to(&request, Errno::ENOENT, Some("no such key"));
    assert_eq!((telling.error_text(), telling.raw()), ("no such key", &b"no such key\0"[..]));
}

#[test]
fn accessors_of_another_kind_have_no_effect() {
    let mut event = Message::event("e");
    event.set_errnum(Errno::EIO);
    event.set_nodeid(5);
    event.set_matchtag(5);
    event.set_sequence(9);
    assert_eq!((event.aux1, event.aux2, event.sequence()), (9, 0, 9));
    assert_eq!((event.nodeid(), event.matchtag(), event.errnum()), (NODEID_ANY, 0, Errno::OK));
    let control = Message::control(1, 2);
    assert_eq!((control.control_type(), control.control_status(), control.topic()), (1, 2, ""));
}

#[test]
fn streaming_and_no_response_exclude_each_other() {
    let message = Message::request("a").with_no_response().with_streaming();
    assert!(message.is_streaming() && !message.no_response());
    let message = message.with_no_response();
    assert!(!message.is_streaming() && message.no_response());
}

#[test]
fn json_goes_out_with_a_final_nul_and_comes_back() {
    let message = Message::request("a").with_json(&json!({"name": "size"}));
    assert_eq!(message.raw(), b"{\"name\":\"size\"}\0");
    assert_eq!(message.json_bytes(), Ok(&b"{\"name\":\"size\"}"[..]));
    assert_eq!(message.json(), Ok(Name { name: "size".to_owned() }));
}

#[test]
fn payloads_that_are_no_json_object_are_protocol_errors() {
    let base = Message::request("a");
    let error = |m: Message| m.json::<Name>().unwrap_err();
    assert_eq!(error(base.clone()), PayloadError::Missing);
    assert_eq!(error(base.clone().with_raw("{}")), PayloadError::NotTerminated);
    assert_eq!(error(base.clone().with_text("[\"size\"]")), PayloadError::NotObject);
    assert_eq!(error(base.clone().with_text("3")), PayloadError::NotObject);
    for text in ["", "{", "{}", "{\"name\":3}", "{\"name\":\"a\"} x"] {
        let error = error(base.clone().with_text(text));
        assert!(matches!(error, PayloadError::Json(_)), "{text}: {error}");
        assert_eq!(error.errno(), Errno::EPROTO);
    }
    let deep = format!("{{\"name\":{}", "[".repeat(100_000));
    assert!(matches!(error(base.clone().with_text(&deep)), PayloadError::Json(_)));
    let not_text = base.with_raw(&b"\xff\0"[..]);
    assert_eq!(not_text.text(), Err(PayloadError::NotText));
}

#[test]
fn a_value_that_json_cannot_express_is_an_error() {
    let map = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(Message::request("a").try_with_json(&map).is_err());
    let response = Message::response_to(&Message::request("a")).with_json(&map);
    assert_eq!((response.errnum(), response.payload), (Errno::EINVAL, None));
}

#[test]
fn hops_print_as_a_path_of_short_ids() {
    let mut message = Message::request("ping");
    message.push_route("45f1b74e-cdb4-44b2-96f9-98103229fc62".into());
    message.push_route("a36a0759-7431-49b4-bd48-ae0dd30a447d".into());
    assert_eq!(message.route_string(), "45f1b74e!a36a0759");
    assert_eq!(RouteId::from("äöüäöüäöü").short(), "äöüäöüäö");
    assert_eq!(RouteId::from("abc").short(), "abc");
}

#[test]
fn roles_allow_what_they_have_in_common() {
    let guest = Rolemask::USER | Rolemask::LOCAL;
    assert!(guest.allows(Rolemask::ALL) && guest.allows(Rolemask::OWNER | Rolemask::USER));
    assert!(!guest.allows(Rolemask::OWNER) && !Rolemask::NONE.allows(Rolemask::ALL));
    assert!(Cred::new(7, guest).may_act_for(7) && !Cred::new(7, guest).may_act_for(8));
    assert!(Cred::new(7, Rolemask::OWNER).may_act_for(8));
    assert!(!Cred::UNKNOWN.may_act_for(Cred::UNKNOWN.userid));
}
