//! Requests under random loss of links and brokers: each is answered once, and with its own
//! answer, although clients use their tags again.

use std::collections::BTreeMap;

use flux_proto::{Errno, Message, MsgType};
use flux_svc::engine::Input;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::cluster::{Caller, Cluster, OWNER};

#[derive(Debug, Clone)]
enum Step {
    /// Client, target, kept by the service or not.
    Ask(usize, u32, bool),
    /// The service of a rank answers the oldest request that it keeps.
    Answer(u32),
    Break(u32),
    Rejoin(u32),
    Disconnect(u32),
    Restart(u32),
}

fn steps(size: u32) -> impl Strategy<Value = Vec<Step>> {
    let rank = 0..size;
    let below = 1..size;
    let step = prop_oneof![
        8 => (0..size as usize, rank.clone(), any::<bool>())
            .prop_map(|(client, rank, keep)| Step::Ask(client, rank, keep)),
        6 => rank.prop_map(Step::Answer),
        2 => below.clone().prop_map(Step::Break),
        3 => below.clone().prop_map(Step::Rejoin),
        1 => below.clone().prop_map(Step::Disconnect),
        1 => below.prop_map(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// What one client waits for: a number by tag.
type Open = BTreeMap<u32, u64>;

struct Storm {
    cluster: Cluster,
    clients: Vec<Caller>,
    open: Vec<Open>,
    nonce: u64,
}

impl Storm {
    fn look(&mut self) {
        for (client, open) in self.clients.iter().zip(&mut self.open) {
            for message in self.cluster.received(*client) {
                assert_eq!(message.kind, MsgType::Response);
                let nonce = open.remove(&message.matchtag()).expect("an answer nobody waits for");
                match message.errnum().0 {
                    0 => {
                        let body: Value = message.json().unwrap();
                        assert_eq!(body["body"]["nonce"], json!(nonce), "somebody else's answer");
                    }
                    _ => assert!(
                        matches!(message.errnum(), Errno::EHOSTUNREACH | Errno::EAGAIN),
                        "{:?}",
                        message.errnum()
                    ),
                }
            }
        }
    }

    fn answer(&mut self, rank: u32) -> bool {
        let mut notes = self.cluster.notes[rank as usize].borrow_mut();
        if notes.held.is_empty() {
            return false;
        }
        let request = notes.held.remove(0);
        // The probe is a module; its answers reach the switch when it is given something.
        let body: Value = request.json().unwrap();
        let answer = Message::response_to(&request).with_json(&json!({ "body": body }));
        notes.late.push(answer);
        true
    }

    fn rejoin(&mut self, rank: u32) {
        let join = Message::request("state-machine.do")
            .with_json(&json!({ "topic": "overlay.join" }))
            .with_no_response();
        self.cluster.send(self.clients[rank as usize], join);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ask(client, rank, keep) => {
                let open = &mut self.open[client];
                let tag = (1..).find(|tag| !open.contains_key(tag)).unwrap();
                self.nonce += 1;
                open.insert(tag, self.nonce);
                let topic = if keep { "probe.hold" } else { "probe.echo" };
                let mut message = Message::request(topic)
                    .with_nodeid(rank)
                    .with_json(&json!({ "nonce": self.nonce }));
                message.set_matchtag(tag);
                self.cluster.send(self.clients[client], message);
            }
            Step::Answer(rank) => {
                if self.answer(rank) {
                    let poke = Message::request("probe.release").with_no_response();
                    self.cluster.send(self.clients[rank as usize], poke);
                }
            }
            Step::Break(rank) => self.cluster.break_uplink(rank),
            Step::Rejoin(rank) => self.rejoin(rank),
            Step::Disconnect(rank) => {
                let message = Message::request("overlay.disconnect-parent")
                    .with_json(&json!({ "reason": "storm" }))
                    .with_no_response();
                self.cluster.send(self.clients[rank as usize], message);
            }
            Step::Restart(rank) => {
                self.look();
                self.cluster.kill(rank);
                self.cluster.start(rank);
                self.open[rank as usize].clear();
                self.clients[rank as usize] = self.cluster.client(rank, OWNER);
            }
        }
        self.look();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_once_and_with_its_own_answer(
        uri in prop_oneof![Just("kary:1"), Just("kary:2"), Just("binomial")],
        steps in steps(6),
    ) {
        let mut cluster = Cluster::new(uri, 6);
        let clients: Vec<_> = (0..6).map(|rank| cluster.client(rank, OWNER)).collect();
        let open = vec![Open::new(); 6];
        let mut storm = Storm { cluster, clients, open, nonce: 0 };
        for step in &steps {
            storm.step(step);
        }
        // Faults heal, services answer, and nothing is left open.
        for _ in 0..6 {
            for rank in 1..6 {
                storm.rejoin(rank);
            }
            storm.cluster.advance(5_000_000);
        }
        for rank in 0..6 {
            while storm.answer(rank) {}
            let poke = Message::request("probe.release").with_no_response();
            storm.cluster.send(storm.clients[rank as usize], poke);
        }
        storm.look();
        prop_assert!(storm.open.iter().all(BTreeMap::is_empty), "left open: {:?}", storm.open);
        for rank in 0..6 {
            let node = storm.cluster.nodes[rank].as_ref().unwrap();
            prop_assert_eq!(node.tracked(), 0, "tracked at rank {}", rank);
        }
        for from in 0..6 {
            for to in 0..6 {
                storm.step(&Step::Ask(from, to, false));
            }
        }
        storm.cluster.input(0, Input::Tick);
        prop_assert!(storm.open.iter().all(BTreeMap::is_empty), "not healed: {:?}", storm.open);
    }
}
