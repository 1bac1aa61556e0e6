//! The way from this broker up to the leader, and what instance is there.
//!
//! It is open when every link on it is up and every broker on it has its services up. Each broker
//! tells its children when that changes, and its own modules. So the brokers below a lost link
//! stay joined to each other, know that nobody above hears them, and know when to ask anew.

use flux_api::overlay::{Way_, WayNews};
use flux_api::rpc::request;
use flux_api::{Body, RpcError};
use flux_id::fsd;
use flux_proto::{Cred, Errno, Message, Rolemask, USERID_UNKNOWN};
use flux_svc::engine::{LinkId, Output};
use flux_svc::{Level, Way};

use crate::config::NodeConfig;
use crate::node::{Node, Work};
use crate::overlay::parent::Uplink;
use crate::switch::seat::Phase;

/// What is known of the way up.
#[derive(Debug)]
pub(crate) struct WayUp {
    /// Requests get to the leader. Always so at rank 0.
    pub(crate) open: bool,
    /// The modules were told that it is lost, since this time in monotonic microseconds.
    lost: Option<u64>,
    /// The children were told that it is open from here.
    told: bool,
    /// Identity of the instance; empty as long as it is not known.
    pub(crate) instance: String,
    /// The instance outlives the process of its leader.
    pub(crate) durable: bool,
    /// Incarnation of the leader.
    leader: String,
}

impl WayUp {
    pub(crate) fn new(cfg: &NodeConfig) -> Self {
        let root = cfg.rank == 0;
        let uuid = || cfg.uuid.to_str_lossy().into_owned();
        Self {
            open: root,
            lost: None,
            told: false,
            instance: match &cfg.instance {
                _ if !root => String::new(),
                // Without state that outlives it, an instance is its leader's process.
                None => uuid(),
                Some(instance) => instance.clone(),
            },
            durable: root && cfg.instance.is_some(),
            leader: if root { uuid() } else { String::new() },
        }
    }
}

impl Node {
    /// What a child is told.
    pub(crate) fn way_news(&self) -> WayNews {
        let way = &self.overlay.way;
        WayNews {
            open: way.open && self.boot.is_up(),
            instance: way.instance.clone(),
            durable: way.durable,
            leader: way.leader.clone(),
            sequence: self.events.sequence,
        }
    }

    /// Tells the children when the way from here has changed.
    pub(crate) fn tell_way(&mut self) {
        let news = self.way_news();
        if std::mem::replace(&mut self.overlay.way.told, news.open) == news.open {
            return;
        }
        let cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::OWNER };
        let message = request::<Way_>(&news).with_no_response().with_cred(cred);
        for link in self.overlay.children.values().filter_map(|child| child.link) {
            self.out.push_back(Output::Link(link, message.clone()));
        }
    }

    fn tell_modules(&mut self, way: Way) {
        for (at, seat) in self.seats.iter().enumerate() {
            if seat.phase != Phase::Exited {
                self.work.push_back(Work::Way(at, way));
            }
        }
    }

    /// A message of the parent about its way.
    pub(crate) fn way_message(&mut self, message: &Message) {
        match WayNews::take(message) {
            Ok(news) => self.way_heard(news),
            Err(error) => self.log("overlay", Level::Err, format!("overlay.way: {error}")),
        }
    }

    /// The parent's way is this.
    pub(crate) fn way_heard(&mut self, news: WayNews) {
        let way = &mut self.overlay.way;
        if !news.instance.is_empty() {
            if !way.instance.is_empty() && way.instance != news.instance {
                let text = format!(
                    "the leader runs another instance ({}) than the one this broker belongs to \
                     ({}): starting again",
                    news.instance, way.instance
                );
                return self.bar(text);
            }
            way.instance = news.instance;
            way.durable = news.durable;
        }
        if !news.open {
            return self.way_lost();
        }
        let restarted = !way.leader.is_empty() && way.leader != news.leader;
        way.leader = news.leader;
        if std::mem::replace(&mut way.open, true) {
            return;
        }
        // The numbers of events begin again with a new leader, and have a gap with the former.
        self.events.fresh = true;
        let lost = self.overlay.way.lost.take();
        if lost.is_some() || self.online {
            self.tell_modules(Way::Back);
        }
        if let Some(since) = lost {
            let seen = self.events.sequence;
            let after = self.clock.mono_us.saturating_sub(since) as f64 / 1e6;
            let mut text = format!("the way to the leader is back after {}", fsd::format(after));
            if restarted {
                text += ", to a leader that was restarted";
            } else if news.sequence > seen {
                text += &format!("; events {}-{} were missed", seen + 1, news.sequence);
            }
            self.log("overlay", Level::Info, text);
        }
        self.tell_way();
    }

    /// Requests do not get to the leader any more.
    pub(crate) fn way_lost(&mut self) {
        if std::mem::replace(&mut self.overlay.way.open, false) {
            self.way_cut();
            self.tell_way();
        }
    }

    /// What was sent up may not have arrived, also where the way was not open.
    pub(crate) fn way_cut(&mut self) {
        if self.overlay.way.lost.is_none() {
            self.overlay.way.lost = Some(self.clock.mono_us);
            self.tell_modules(Way::Lost);
        }
    }

    /// This broker cannot go on under its parent as it is.
    fn bar(&mut self, text: String) {
        self.log("overlay", Level::Crit, &text);
        self.out.push_back(Output::CloseLink(LinkId::PARENT));
        self.parent_lost(Uplink::Barred(RpcError::new(Errno::ESTALE, text)));
    }
}
