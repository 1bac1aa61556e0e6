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
    /// The parent does not hear of it.
    BreakUnseen(u32),
    Disconnect(u32),
    Restart(u32),
    /// It is killed, and started by the next [`Step::Return`].
    Kill(u32),
    Return(u32),
    /// Time goes by, in milliseconds.
    Wait(u64),
}

fn common(size: u32) -> impl Strategy<Value = Step> {
    let rank = 0..size;
    let below = 1..size;
    prop_oneof![
        8 => (0..size as usize, rank.clone(), any::<bool>())
            .prop_map(|(client, rank, keep)| Step::Ask(client, rank, keep)),
        6 => rank.prop_map(Step::Answer),
        2 => below.clone().prop_map(Step::Break),
        3 => below.clone().prop_map(Step::Rejoin),
        1 => below.clone().prop_map(Step::Disconnect),
        1 => below.prop_map(Step::Restart),
    ]
}

fn steps(size: u32) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(common(size), 1..60)
}

/// With brokers that stay away, so that others go elsewhere; the leader, too.
fn longer_steps(size: u32) -> impl Strategy<Value = Vec<Step>> {
    let rank = 0..size;
    let step = prop_oneof![
        12 => common(size),
        1 => (1..size).prop_map(Step::BreakUnseen),
        1 => rank.clone().prop_map(Step::Restart),
        2 => rank.clone().prop_map(Step::Kill),
        3 => rank.prop_map(Step::Return),
        4 => (0..6000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

/// What one client waits for: a number by tag.
type Open = BTreeMap<u32, u64>;

struct Storm {
    cluster: Cluster,
    clients: Vec<Caller>,
    open: Vec<Open>,
    nonce: u64,
    /// Brokers that lose their parent may go elsewhere.
    moves: bool,
}

impl Storm {
    fn new(mut cluster: Cluster, moves: bool) -> Self {
        let size = u32::try_from(cluster.nodes.len()).unwrap();
        let clients = (0..size).map(|rank| cluster.client(rank, OWNER)).collect();
        Self { cluster, clients, open: vec![Open::new(); size as usize], nonce: 0, moves }
    }

    fn is_up(&self, rank: u32) -> bool {
        self.cluster.nodes[rank as usize].is_some()
    }

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
        if self.moves {
            return self.cluster.rejoin(rank);
        }
        let join = Message::request("state-machine.do")
            .with_json(&json!({ "topic": "overlay.join" }))
            .with_no_response();
        self.cluster.send(self.clients[rank as usize], join);
    }

    fn kill(&mut self, rank: u32) {
        self.look();
        self.cluster.kill(rank);
        self.open[rank as usize].clear();
    }

    fn start(&mut self, rank: u32) {
        self.cluster.start(rank);
        self.clients[rank as usize] = self.cluster.client(rank, OWNER);
    }

    /// Faults heal, services answer, and nothing is left open.
    fn end(mut self) -> Result<(), TestCaseError> {
        let size = u32::try_from(self.clients.len()).unwrap();
        for rank in 0..size {
            self.step(&Step::Return(rank));
        }
        for _ in 0..6 {
            for rank in 1..size {
                self.rejoin(rank);
            }
            self.cluster.advance(5_000_000);
        }
        for rank in 0..size {
            while self.answer(rank) {}
            let poke = Message::request("probe.release").with_no_response();
            self.cluster.send(self.clients[rank as usize], poke);
        }
        self.look();
        prop_assert!(self.open.iter().all(BTreeMap::is_empty), "left open: {:?}", self.open);
        for rank in 0..size {
            let node = self.cluster.nodes[rank as usize].as_ref().unwrap();
            prop_assert_eq!(node.tracked(), 0, "tracked at rank {}", rank);
        }
        for from in 0..size as usize {
            for to in 0..size {
                self.step(&Step::Ask(from, to, false));
            }
        }
        self.cluster.input(0, Input::Tick);
        prop_assert!(self.open.iter().all(BTreeMap::is_empty), "not healed: {:?}", self.open);
        Ok(())
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ask(client, ..) if !self.is_up(client as u32) => {}
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
            Step::BreakUnseen(rank) => self.cluster.break_uplink_unseen(rank),
            Step::Restart(rank) => {
                self.kill(rank);
                self.start(rank);
            }
            Step::Kill(rank) => self.kill(rank),
            Step::Return(rank) if self.is_up(rank) => {}
            Step::Return(rank) => self.start(rank),
            Step::Wait(ms) => self.cluster.advance(ms * 1000),
        }
        self.look();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 2))]

    #[test]
    fn every_request_is_answered_once_and_with_its_own_answer(
        uri in prop_oneof![Just("kary:1"), Just("kary:2"), Just("binomial")],
        steps in steps(6),
    ) {
        let mut storm = Storm::new(Cluster::new(uri, 6), false);
        for step in &steps {
            storm.step(step);
        }
        storm.end()?;
    }

    #[test]
    fn every_request_is_answered_once_though_brokers_go_to_other_parents(
        uri in prop_oneof![Just("kary:1"), Just("kary:2"), Just("binomial")],
        steps in longer_steps(7),
    ) {
        let mut storm = Storm::new(Cluster::movable(uri, 7), true);
        for step in &steps {
            storm.step(step);
        }
        storm.end()?;
    }
}
