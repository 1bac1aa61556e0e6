//! The resource eventlog in memory, and those who follow it (RFC 44).

use std::collections::VecDeque;

use flux_api::Answer;
use flux_api::resource::{Journal, ResourceJournal};
use flux_model::eventlog::Event;
use flux_proto::Message;
use flux_svc::Cx;
use serde_json::Value;

use crate::service::Wait;

/// Entries of one message of the backlog.
const CHUNK: usize = 100;

/// Events, oldest first, and streams.
#[derive(Debug, Default)]
pub(crate) struct EventJournal {
    events: VecDeque<Event>,
    streams: Vec<Answer<Journal>>,
    max: usize,
}

impl EventJournal {
    /// Keeps at most `max` events from now on.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max.max(2);
        self.trim();
    }

    /// Most events that are kept.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Dropped events are replaced by one `truncate` with the time of the last of them.
    fn trim(&mut self) {
        if self.events.len() <= self.max {
            return;
        }
        let mut last = 0.0;
        while self.events.len() >= self.max {
            last = self.events.pop_front().map_or(last, |event| event.timestamp);
        }
        self.events.push_front(Event::new(last, "truncate"));
    }

    /// Adds an event and tells who follows.
    pub(crate) fn post(&mut self, cx: &mut Cx<'_, Wait>, event: Event, r: Option<&Value>) {
        let item = item(&[&event], r);
        for stream in &self.streams {
            stream.item(cx, &item);
        }
        self.events.push_back(event);
        self.trim();
    }

    /// A new stream: what was, a sentinel, then what comes.
    pub(crate) fn follow(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        answer: Answer<Journal>,
        r: Option<&Value>,
    ) {
        let mut chunk: Vec<&Event> = Vec::new();
        for event in &self.events {
            if event.name == "resource-define" {
                if !chunk.is_empty() {
                    answer.item(cx, &item(&chunk, None));
                    chunk.clear();
                }
                answer.item(cx, &item(&[event], r));
                continue;
            }
            chunk.push(event);
            if chunk.len() == CHUNK {
                answer.item(cx, &item(&chunk, None));
                chunk.clear();
            }
        }
        if !chunk.is_empty() {
            answer.item(cx, &item(&chunk, None));
        }
        answer.item(cx, &item(&[], None));
        self.streams.push(answer);
    }

    /// Ends the stream with this tag of the sender of `message`.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_, Wait>, tag: u32, head: &Message) {
        let at = self
            .streams
            .iter()
            .position(|answer| answer.matchtag() == tag && answer.same_sender(head));
        if let Some(at) = at {
            self.streams.remove(at).end(cx);
        }
    }

    /// Forgets the streams of a client that is gone.
    pub(crate) fn disconnect(&mut self, message: &Message) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.streams)
            .into_iter()
            .partition(|answer| answer.same_sender(message));
        self.streams = kept;
        for answer in gone {
            answer.forget();
        }
    }

    /// Ends every stream.
    pub(crate) fn end(&mut self, cx: &mut Cx<'_, Wait>) {
        for answer in std::mem::take(&mut self.streams) {
            answer.end(cx);
        }
    }
}

fn item(events: &[&Event], r: Option<&Value>) -> ResourceJournal {
    ResourceJournal { events: events.iter().map(|event| event.to_value()).collect(), r: r.cloned() }
}
