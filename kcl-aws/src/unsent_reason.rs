//! The obstacles that keep the SDK from sending a request, recognized by its words: it has no types for them.

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsentReason {
    /// The SDK was given no source of credentials.
    NoCredentials,
    /// The source of the credentials is set up wrongly: a profile that is not there, or one that lacks something.
    Misconfigured,
    /// The source of the credentials failed. This may heal by itself.
    CredentialsFailed,
    /// The SDK was given no region.
    NoRegion,
}

impl UnsentReason {
    /// Returns the reason that this [chain of errors](crate::error_chain) names, or `None` if it names none.
    pub fn in_chain(chain: &str) -> Option<Self> {
        let says = |words: &str| chain.contains(words);
        if says("no identity resolver") || says("credential provider was not enabled") {
            Some(Self::NoCredentials)
        } else if says("was not properly configured") {
            Some(Self::Misconfigured)
        } else if says("Missing Region") || says("missing signing region") {
            Some(Self::NoRegion)
        } else if says("credential") || says("identity resolver") {
            Some(Self::CredentialsFailed)
        } else {
            None
        }
    }

    /// The reaction that fits it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoCredentials => {
                "give the SDK credentials: a profile, a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::Misconfigured => "the request was not sent: correct the source of the credentials",
            Self::NoRegion => "give the SDK a region: AWS_REGION, a profile, or SdkConfig",
            Self::CredentialsFailed => {
                "the request was not sent: the source of the credentials does not answer"
            }
        }
    }

    /// Returns `true` if another attempt may succeed without anyone changing a setting.
    pub fn is_transient(self) -> bool {
        self == Self::CredentialsFailed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_are_told_from_failing_ones() {
        let rows = [
            ("no identity resolver for it", Some(UnsentReason::NoCredentials)),
            (
                "the credential provider was not enabled: x",
                Some(UnsentReason::NoCredentials),
            ),
            (
                "loading credentials timed out after 5s",
                Some(UnsentReason::CredentialsFailed),
            ),
            (
                "an error occurred while loading credentials",
                Some(UnsentReason::CredentialsFailed),
            ),
            (
                "Invalid Configuration: Missing Region",
                Some(UnsentReason::NoRegion),
            ),
            (
                "the credentials provider was not properly configured: no such profile",
                Some(UnsentReason::Misconfigured),
            ),
            ("connection reset by peer", None),
        ];
        for (chain, reason) in rows {
            assert_eq!(UnsentReason::in_chain(chain), reason, "{chain}");
        }
    }
}
