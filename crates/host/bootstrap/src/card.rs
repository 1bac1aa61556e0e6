//! Business cards: what a broker tells its peers of itself.

use flux_wire::{Endpoint, PublicKey};
use serde::{Deserialize, Serialize};

/// A broker's business card, JSON under the PMI key of its rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Host name.
    pub host: String,
    /// Public key as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<String>,
    /// Endpoints, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<String>,
}

impl Card {
    /// The key.
    ///
    /// # Errors
    /// When there is none, or the text is no key.
    pub fn key(&self) -> Result<PublicKey, String> {
        let text = self.pubkey.as_deref().ok_or("no public key")?;
        text.parse().map_err(|error: flux_wire::KeyError| error.to_string())
    }

    /// The first endpoint that can be used: a unix socket only on the same host.
    ///
    /// # Errors
    /// When there is none, or a text is no endpoint.
    pub fn endpoint(&self, same_host: bool) -> Result<Endpoint, String> {
        for text in &self.uri {
            let endpoint = Endpoint::parse(text).map_err(|error| error.to_string())?;
            if same_host || matches!(endpoint, Endpoint::Tcp { .. }) {
                return Ok(endpoint);
            }
        }
        Err("no endpoint that can be reached".to_string())
    }
}
