//! Requests that are on their way over a link, so that each ends when the link does; and what to
//! say on behalf of a peer that leaves.

use std::collections::BTreeMap;

use flux_proto::{Message, RouteId};

/// Which request: the way it came, whose first hop is who has asked, and its matchtag.
///
/// Requester and matchtag alone are not enough. Who was told that a request has failed, because a
/// link on its way was lost, may use the tag again while the request is still here; its next one
/// comes another way, since each link has new names every time that it comes up.
type Key = (Vec<RouteId>, u32);

fn key(message: &Message) -> Key {
    (message.routes.clone(), message.matchtag())
}

/// Outstanding requests of one link, or of one who serves. A response has to be shown with the
/// route stack that its request had.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    open: BTreeMap<Key, Open>,
}

/// A request that has no last response yet.
#[derive(Debug)]
struct Open {
    head: Message,
    /// When it came, monotonic microseconds.
    since: u64,
}

/// A message without its payload.
fn head(message: &Message) -> Message {
    let mut head = message.clone();
    head.set_payload(None);
    head
}

impl Tracker {
    /// A request goes over the link, or to who serves it.
    pub(crate) fn request(&mut self, message: &Message, now: u64) {
        let Some(client) = message.first_route() else {
            return;
        };
        if message.method().ends_with("disconnect") && message.no_response() {
            let range = self.open.range((vec![client.clone()], 0)..);
            let keys = range.map(|(key, _)| key).take_while(|key| key.0.first() == Some(client));
            let gone: Vec<Key> = keys.cloned().collect();
            for key in gone {
                self.open.remove(&key);
            }
        }
        if !message.no_response() && message.matchtag() != 0 {
            let open = Open { head: head(message), since: now };
            self.open.insert(key(message), open);
        }
    }

    /// A response goes back the way its request came. Whether the request was known.
    pub(crate) fn response(&mut self, message: &Message) -> bool {
        let key = key(message);
        if message.is_streaming() && message.errnum().0 == 0 {
            return self.open.contains_key(&key);
        }
        self.open.remove(&key).is_some()
    }

    /// The link is lost: takes what was outstanding.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Message> + use<> {
        std::mem::take(&mut self.open).into_values().map(|open| open.head)
    }

    /// The oldest request that wants one answer, and since when it waits. Streams may last.
    pub(crate) fn oldest(&self) -> Option<(&Message, u64)> {
        let unary = self.open.values().filter(|open| !open.head.is_streaming());
        unary.min_by_key(|open| open.since).map(|open| (&open.head, open.since))
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

/// No sender gets more disconnect notifications than this.
pub(crate) const MAX_DISCONNECTS: usize = 1 << 16;

/// Longest topic that gets a disconnect notification.
const MAX_TOPIC: usize = 255;

/// Where a notification goes, and for whom: nodeid, direction, and who has asked where the
/// sender is a proxy.
type Place = (u32, bool, Option<RouteId>);

/// Whom to tell when a sender goes away: one entry for each service, nodeid and direction it
/// has used.
#[derive(Debug, Default)]
pub(crate) struct Disconnects {
    armed: BTreeMap<String, BTreeMap<Place, Message>>,
    count: usize,
}

impl Disconnects {
    /// The sender sends a request. False when nobody can be told of its end, since it has more than
    /// `max` places or the topic is too long.
    pub(crate) fn arm(&mut self, message: &Message, max: usize) -> bool {
        let topic = message.topic();
        if message.no_response() {
            return true;
        }
        let service = topic.rsplit_once('.').map_or("", |(service, _)| service);
        let behind = (message.routes.len() > 1).then(|| message.routes[0].clone());
        let key = (message.nodeid(), message.upstream(), behind);
        if self.armed.get(service).is_some_and(|places| places.contains_key(&key)) {
            return true;
        }
        if topic.len() > MAX_TOPIC || self.count >= max {
            return false;
        }
        match self.armed.get_mut(service) {
            Some(places) => {
                places.insert(key, farewell(message, service));
            }
            None => {
                let place = BTreeMap::from([(key, farewell(message, service))]);
                self.armed.insert(service.to_string(), place);
            }
        }
        self.count += 1;
        true
    }

    /// The sender is gone: takes what to send.
    pub(crate) fn take(&mut self) -> Vec<Message> {
        self.count = 0;
        std::mem::take(&mut self.armed).into_values().flat_map(BTreeMap::into_values).collect()
    }
}

/// The notification derived from a request: same sender and place, no payload, no response.
pub(crate) fn farewell(message: &Message, service: &str) -> Message {
    let mut farewell = head(message);
    let topic = match service {
        "" => "disconnect".to_string(),
        service => format!("{service}.disconnect"),
    };
    farewell.set_topic(Some(topic.into()));
    farewell.set_no_response();
    farewell
}

#[cfg(test)]
mod tests {
    use flux_proto::Errno;

    use super::*;

    fn request(topic: &str, tag: u32, client: &str) -> Message {
        let mut message = Message::request(topic);
        message.set_matchtag(tag);
        message.push_route(RouteId::from(client));
        message
    }

    #[test]
    fn a_request_is_open_until_its_last_response() {
        let mut tracker = Tracker::default();
        let unary = request("a.b", 1, "x");
        let stream = request("a.c", 2, "x").with_streaming();
        tracker.request(&unary, 7);
        tracker.request(&stream, 7);
        tracker.request(&request("a.d", 0, "x"), 7);
        tracker.request(&request("a.e", 3, "x").with_no_response(), 7);
        assert_eq!(tracker.len(), 2);
        assert_eq!(tracker.oldest().map(|(head, since)| (head.topic(), since)), Some(("a.b", 7)));
        assert!(tracker.response(&Message::response_to(&unary)));
        assert!(tracker.oldest().is_none());
        assert!(!tracker.response(&Message::response_to(&unary)));
        assert!(tracker.response(&Message::response_to(&stream)));
        assert_eq!(tracker.len(), 1);
        assert!(tracker.response(&Message::error_to(&stream, Errno::ENODATA, None)));
        assert_eq!(tracker.len(), 0);
    }

    #[test]
    fn a_disconnect_closes_all_of_its_client() {
        let mut tracker = Tracker::default();
        tracker.request(&request("a.b", 1, "x"), 7);
        tracker.request(&request("a.b", 2, "x"), 7);
        tracker.request(&request("a.b", 1, "y"), 7);
        tracker.request(&request("a.disconnect", 1, "x").with_no_response(), 7);
        let left: Vec<_> = tracker.take().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].first_route(), Some(&RouteId::from("y")));
    }

    #[test]
    fn a_tag_that_is_used_again_another_way_is_another_request() {
        let mut tracker = Tracker::default();
        let (mut old, mut new) = (request("a.b", 1, "x"), request("a.c", 1, "x"));
        old.push_route(RouteId::from("before"));
        new.push_route(RouteId::from("after"));
        tracker.request(&old, 7);
        tracker.request(&new, 8);
        assert!(!tracker.response(&Message::response_to(&request("a.b", 1, "x"))));
        assert!(tracker.response(&Message::response_to(&old)));
        let left: Vec<_> = tracker.take().collect();
        assert_eq!(left.iter().map(Message::topic).collect::<Vec<_>>(), ["a.c"]);
        // Who goes away leaves none, whichever way they came.
        tracker.request(&old, 9);
        tracker.request(&new, 9);
        tracker.request(&request("a.b", 1, "xy"), 9);
        tracker.request(&request("a.disconnect", 0, "x").with_no_response(), 9);
        assert_eq!(tracker.len(), 1);
    }

    #[test]
    fn notifications_are_one_for_each_place() {
        let mut armed = Disconnects::default();
        armed.arm(&request("foo.bar.baz", 1, "x"), 10);
        armed.arm(&request("foo.bar.zap", 2, "x"), 10);
        armed.arm(&request("foo.bar.zap", 3, "x").with_nodeid(3), 10);
        armed.arm(&request("foo", 4, "x").with_streaming(), 10);
        armed.arm(&request("quiet.a", 0, "x").with_no_response(), 10);
        armed.arm(&request(&format!("{}.a", "l".repeat(254)), 5, "x"), 10);
        let sent = armed.take();
        let topics: Vec<_> = sent.iter().map(|m| (m.topic(), m.nodeid(), m.matchtag())).collect();
        assert_eq!(
            topics,
            [
                ("disconnect", u32::MAX, 4),
                ("foo.bar.disconnect", 3, 3),
                ("foo.bar.disconnect", u32::MAX, 1)
            ]
        );
        assert!(sent.iter().all(|m| m.no_response() && !m.is_streaming()));
        assert!(armed.take().is_empty());
    }
}
