//! What the fleet manager allows, in one place.

/// Bytes of chunks and pieces of patches that the broker retains, where nothing else is configured.
pub const RETAINED_BYTES_MAX_DEFAULT: u64 = 256 * 1024 * 1024;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Everything in the manager that could grow has its limit here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Devices that may be registered.
    pub devices_max: usize,
    /// Labels of one device.
    pub labels_max: usize,
    /// Bytes of a label's name, and of its value.
    pub label_bytes_max: usize,
    /// Slots in one device's desired state, and in one report.
    pub slots_max: usize,
    /// Bytes of a text that a device sends (versions, reasons, details); what is longer is cut.
    pub text_bytes_max: usize,
    /// Results that are kept per device; the oldest go first.
    pub results_kept_max: u32,
    /// Profiles that are kept per device; the oldest go first.
    pub profiles_kept_max: u32,
    /// Events that are kept per device; the oldest go first.
    pub events_kept_max: u32,
    /// Late labels that are kept per device; the oldest go first, and are counted.
    pub labels_kept_max: u32,
    /// Late labels in one request.
    pub labels_posted_max: usize,
    /// Bytes of a request with late labels.
    pub labels_posted_bytes_max: usize,
    /// Late labels that one look at quality reads; those that came last come first. It is several times what a
    /// device may have, so that none pushes out the others.
    pub quality_labels_max: u32,
    /// Slices or devices that one look at quality tells apart: those with the most labels.
    pub quality_groups_max: usize,
    /// Bytes of captured samples that are kept per device, with 256 more for each; the oldest go first, counted.
    pub captures_bytes_max: u64,
    /// Samples that one request for captured samples may ask for.
    pub capture_request_samples_max: u32,
    /// Requests for captured samples that are remembered per device; the oldest are forgotten first.
    pub capture_requests_kept_max: u32,
    /// Bytes of values in one export of captured samples.
    pub capture_export_bytes_max: u64,
    /// Profiles that one look at drift reads; the newest come first.
    pub drift_profiles_max: u32,
    /// Changes of a state that one look at drift tells, per device; the newest.
    pub drift_changes_max: usize,
    /// Distances of embeddings that one look at drift tells, per device; the newest.
    pub drift_points_max: usize,
    /// The longest period that a site baseline is recorded over, in milliseconds.
    pub site_period_ms_max: u64,
    /// How far ahead the end of such a period may lie, in milliseconds.
    pub site_ahead_ms_max: u64,
    /// How far ahead the end of a mute may lie, in milliseconds.
    pub mute_ms_max: u64,
    /// Mutes that hold at a time.
    pub mutes_max: u32,
    /// Health messages that are kept per device for the charts; the oldest go first.
    pub health_kept_max: u32,
    /// Boots whose sequences are kept per device. What an older boot sends again is discarded.
    pub boots_kept_max: u32,
    /// Names of senders whose malformed payloads are counted apart; the rest share one row.
    pub senders_counted_max: u32,
    /// Messages that one commit may hold.
    pub commit_messages_max: usize,
    /// Records that one commit may hold before it is closed.
    pub commit_records_max: usize,
    /// How long the first message of a commit waits for others.
    pub commit_after_ms: u64,
    /// Bytes of a JSON request.
    pub request_bytes_max: usize,
    /// Bytes of a bundle's upload: the bundle and the tar headers around it.
    pub upload_bytes_max: usize,
    /// Files in a bundle's upload.
    pub upload_files_max: usize,
    /// Bytes of a proposal: several documents of targets metadata as JSON texts.
    pub proposal_bytes_max: usize,
    /// Bytes of chunks and pieces of patches that the broker retains, as their messages' payloads.
    pub retained_bytes_max: u64,
    /// Rows in one answer of the API.
    pub page_rows_max: u32,
    /// Clients of the embedded broker.
    pub clients_max: usize,
    /// Subscriptions of one client of the embedded broker.
    pub subscriptions_max: usize,
    /// Messages that the embedded broker keeps for a client that is away.
    pub queued_messages_max: usize,
    /// Bytes that the embedded broker keeps for a client that is away.
    pub queued_bytes_max: usize,
    /// Listeners of the event stream.
    pub listeners_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices_max: 10_000,
            labels_max: 32,
            label_bytes_max: 128,
            slots_max: 16,
            text_bytes_max: 1024,
            results_kept_max: 100_000,
            profiles_kept_max: 20_000,
            events_kept_max: 10_000,
            labels_kept_max: 20_000,
            labels_posted_max: 2000,
            labels_posted_bytes_max: 512 * 1024,
            quality_labels_max: 100_000,
            quality_groups_max: 64,
            captures_bytes_max: 64 * 1024 * 1024,
            capture_request_samples_max: 100_000,
            capture_requests_kept_max: 100,
            capture_export_bytes_max: 1024 * 1024 * 1024,
            drift_profiles_max: 20_000,
            drift_changes_max: 64,
            drift_points_max: 40,
            site_period_ms_max: 31 * DAY_MS,
            site_ahead_ms_max: 31 * DAY_MS,
            mute_ms_max: 92 * DAY_MS,
            mutes_max: 1000,
            health_kept_max: 120,
            boots_kept_max: 1024,
            senders_counted_max: 1000,
            commit_messages_max: 256,
            commit_records_max: 2000,
            commit_after_ms: 20,
            request_bytes_max: 64 * 1024,
            upload_bytes_max: 130 * 1024 * 1024,
            upload_files_max: 1024,
            proposal_bytes_max: 8 * 1024 * 1024,
            retained_bytes_max: RETAINED_BYTES_MAX_DEFAULT,
            page_rows_max: 1000,
            clients_max: 10_001,
            subscriptions_max: 4096,
            queued_messages_max: 10_000,
            queued_bytes_max: 32 * 1024 * 1024,
            listeners_max: 256,
        }
    }
}
