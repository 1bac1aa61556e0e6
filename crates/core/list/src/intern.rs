//! Strings that many finished jobs share, kept once and counted.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Names a kept string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol(NonZeroU32);

#[derive(Debug)]
struct Slot {
    text: Arc<str>,
    uses: u32,
}

/// The kept strings.
#[derive(Debug, Default)]
pub struct Interner {
    by_text: BTreeMap<Arc<str>, Symbol>,
    slots: Vec<Slot>,
    free: Vec<Symbol>,
    bytes: usize,
}

fn index(symbol: Symbol) -> usize {
    symbol.0.get() as usize - 1
}

impl Interner {
    /// Keeps a string once more. `None` only when four billion are kept already.
    pub fn keep(&mut self, text: &str) -> Option<Symbol> {
        if let Some(symbol) = self.by_text.get(text) {
            let slot = self.slots.get_mut(index(*symbol))?;
            slot.uses = slot.uses.checked_add(1)?;
            return Some(*symbol);
        }
        let text: Arc<str> = text.into();
        let slot = Slot { text: text.clone(), uses: 1 };
        let symbol = if let Some(symbol) = self.free.pop() {
            *self.slots.get_mut(index(symbol))? = slot;
            symbol
        } else {
            let next = u32::try_from(self.slots.len() + 1).ok().and_then(NonZeroU32::new)?;
            self.slots.push(slot);
            Symbol(next)
        };
        self.bytes += text.len();
        self.by_text.insert(text, symbol);
        Some(symbol)
    }

    /// The string of a symbol.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        self.slots.get(index(symbol)).map_or("", |slot| &slot.text)
    }

    /// Keeps a string once less.
    pub fn release(&mut self, symbol: Symbol) {
        let Some(slot) = self.slots.get_mut(index(symbol)) else { return };
        slot.uses = slot.uses.saturating_sub(1);
        if slot.uses == 0 {
            let text = std::mem::replace(&mut slot.text, "".into());
            self.bytes -= text.len();
            self.by_text.remove(&text);
            self.free.push(symbol);
        }
    }

    /// Strings kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    /// Bytes of memory, roughly.
    #[must_use]
    pub fn footprint(&self) -> usize {
        // Per string: two counters and padding of its allocation, and a tree entry that is half full.
        const EACH: usize = 32 + 2 * (size_of::<Arc<str>>() + size_of::<Symbol>());
        self.bytes
            + self.by_text.len() * EACH
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * size_of::<Symbol>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_kept_once_until_nobody_uses_them() {
        let mut interner = Interner::default();
        let one = interner.keep("alice").unwrap();
        assert_eq!(interner.keep("alice"), Some(one));
        let two = interner.keep("bob").unwrap();
        assert_eq!((interner.text(one), interner.text(two)), ("alice", "bob"));
        interner.release(one);
        assert_eq!(interner.len(), 2);
        interner.release(one);
        assert_eq!(interner.len(), 1);
        let three = interner.keep("carol").unwrap();
        assert_eq!(three, one, "the place is used again");
        assert_eq!(interner.text(three), "carol");
    }
}
