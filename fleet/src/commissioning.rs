//! Commissioning: what is usual at a site is recorded, looked at and approved; alarms that somebody knows of are
//! muted until a date. Nothing of it happens by itself.

use selvedge_bundle::{SiteBaseline, SiteRecord, compress};
use selvedge_wire::{DeviceId, Digest, SlotName, encode};

use crate::{
    Error, Limits,
    drift::{
        ApprovedView, CohortQuery, DriftQuery, Mute, NewMute, Progress, ProposalView,
        SiteBaselineView, SiteView, record_site,
    },
    manager::Manager,
    store::{Change, DesiredRow, DesiredSet, ProposalRow, SiteRow, WindowFilter},
};

/// A period, in Unix milliseconds by the device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Windows that close from here on are taken.
    pub from_ms: u64,
    /// Windows that close up to here are taken.
    pub to_ms: u64,
}

impl Period {
    fn check(self, now_ms: u64, limits: &Limits) -> Result<(), Error> {
        let Self { from_ms, to_ms } = self;
        let hours = |ms: u64| ms / 3_600_000;
        if from_ms >= to_ms {
            let why = format!("the period ends before it begins: {from_ms} to {to_ms}");
            return Err(Error::Refused(why));
        }
        if to_ms - from_ms > limits.site_period_ms_max {
            let max = hours(limits.site_period_ms_max);
            return Err(Error::Refused(format!("a period has at most {max} hours")));
        }
        if to_ms > now_ms.saturating_add(limits.site_ahead_ms_max) {
            let max = hours(limits.site_ahead_ms_max);
            return Err(Error::Refused(format!("a period ends at most {max} hours from now")));
        }
        Ok(())
    }
}

/// Site baselines.
impl Manager {
    /// Declares the period over which a slot's site baseline is recorded: it may lie in the past or in the future.
    ///
    /// # Errors
    /// [`Error::Refused`] for a period that is none or beyond a limit; [`Error::Conflict`] if the slot should run no
    /// bundle with a baseline; [`Error::NotFound`] if there is no such device.
    pub async fn propose_site(
        &self,
        device: &DeviceId,
        slot: &SlotName,
        period: Period,
        by: &str,
    ) -> Result<SiteView, Error> {
        let now_ms = self.now_ms();
        check_text("by", by, &self.limits)?;
        period.check(now_ms, &self.limits)?;
        self.store.device(device).await?;
        let desired = self.store.desired(device).await?;
        let held = desired.as_ref().and_then(|desired| desired.slots.get(slot));
        let bundle = held.map(|held| held.bundle).ok_or_else(|| {
            Error::Conflict(format!("nobody has said what {device} should run in the slot {slot}"))
        })?;
        if self.registry.stock(bundle).await?.baseline().is_none() {
            let why = format!("bundle {bundle} has no baseline, so there are no bins to count in");
            return Err(Error::Conflict(why));
        }
        let Period { from_ms, to_ms } = period;
        let (device, slot) = (device.clone(), slot.clone());
        let (proposed_ms, proposed_by) = (now_ms, by.to_owned());
        let row = ProposalRow { device, slot, bundle, from_ms, to_ms, proposed_ms, proposed_by };
        self.store.propose_site(&row).await?;
        self.read_site(&row.device, &row.slot).await
    }

    /// What is proposed and what is approved for a slot.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device, or neither of both.
    pub async fn read_site(&self, device: &DeviceId, slot: &SlotName) -> Result<SiteView, Error> {
        self.store.device(device).await?;
        let proposal = match self.store.site_proposal(device, slot).await? {
            Some(row) => Some(self.look_at_proposal(&row).await?),
            None => None,
        };
        let approved = match self.store.site(device, slot).await? {
            Some(row) => Some(self.look_at_approved(&row).await?),
            None => None,
        };
        if proposal.is_none() && approved.is_none() {
            return Err(Error::NotFound(format!(
                "no site baseline is proposed or approved for the slot {slot} of {device}"
            )));
        }
        Ok(SiteView { device: device.clone(), slot: slot.clone(), proposal, approved })
    }

    /// Makes what was recorded the reference of the site: `looked_at` is the digest of what whoever approves it has
    /// seen.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the period is not over, has too few windows, or gives something else by now.
    pub async fn approve_site(
        &self,
        device: &DeviceId,
        slot: &SlotName,
        looked_at: Digest,
        by: &str,
    ) -> Result<DesiredSet, Error> {
        check_text("by", by, &self.limits)?;
        let row = self
            .store
            .site_proposal(device, slot)
            .await?
            .ok_or_else(|| no_proposal(device, slot))?;
        let now_ms = self.now_ms();
        if now_ms < row.to_ms {
            return Err(Error::Conflict(not_over(&row)));
        }
        let site = self.record(&row).await?;
        if site.digest() != looked_at {
            let digest = site.digest();
            return Err(Error::Conflict(format!(
                "what was counted in this period gives {digest} by now, not {looked_at}: profiles \
                 came since; look at it again"
            )));
        }
        let baseline = site.encode();
        let site = SiteRow {
            device: device.clone(),
            slot: slot.clone(),
            digest: looked_at,
            spec: site.spec_id(),
            retained_bytes: encode(&compress(&baseline)).len() as u64,
            baseline,
            approved_ms: now_ms,
            approved_by: by.to_owned(),
        };
        self.set_desired(device, &Change::ApproveSite(Box::new(site))).await
    }

    /// Takes a declared period back.
    ///
    /// # Errors
    /// [`Error::NotFound`] if none is declared.
    pub async fn withdraw_site_proposal(
        &self,
        device: &DeviceId,
        slot: &SlotName,
    ) -> Result<(), Error> {
        match self.store.withdraw_site_proposal(device, slot).await? {
            true => Ok(()),
            false => Err(no_proposal(device, slot)),
        }
    }

    async fn look_at_proposal(&self, row: &ProposalRow) -> Result<ProposalView, Error> {
        let ProposalRow { device, slot, bundle, from_ms, to_ms, .. } = row.clone();
        let mut view = ProposalView {
            bundle,
            from_ms,
            to_ms,
            proposed_ms: row.proposed_ms,
            proposed_by: row.proposed_by.clone(),
            progress: Progress::Waiting,
            reason: Some(not_over(row)),
            site: None,
            differs: Vec::new(),
            alarms: Vec::new(),
            lab: None,
        };
        if self.now_ms() >= to_ms {
            (view.progress, view.reason) = (Progress::Ready, None);
            match self.record(row).await {
                Ok(site) => {
                    let stock = self.registry.stock(bundle).await?;
                    view.site = stock.baseline().map(|lab| SiteBaselineView::new(&site, lab));
                }
                Err(Error::Conflict(reason)) => {
                    (view.progress, view.reason) = (Progress::Refused, Some(reason));
                }
                Err(error) => return Err(error),
            }
        }
        let query = DriftQuery {
            cohort: CohortQuery { devices: vec![device], ..CohortQuery::default() },
            slot: Some(slot),
            from_ms: Some(from_ms),
            to_ms: Some(to_ms),
            ..DriftQuery::of(bundle)
        };
        match self.read_drift(&query).await {
            Ok(lab) => view.compare(lab),
            // Nothing was counted yet.
            Err(Error::NotFound(_) | Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(view)
    }

    async fn look_at_approved(&self, row: &SiteRow) -> Result<ApprovedView, Error> {
        let SiteRow { device, slot, digest, approved_ms, approved_by, .. } = row;
        let site = read_baseline(row);
        let stock = self.registry.stock(site.record().bundle).await?;
        let lab = stock.baseline().expect("a site baseline is counted in a baseline's bins");
        let desired = self.store.desired(device).await?;
        let named = desired.as_ref().and_then(|desired| desired.slots.get(slot)?.site);
        let reported = self.store.device(device).await?.reported;
        let slots = reported.iter().flat_map(|reported| &reported.slots);
        let used =
            slots.filter(|report| report.slot == *slot).find_map(|report| report.site.as_ref());
        Ok(ApprovedView {
            site: SiteBaselineView::new(&site, lab),
            approved_ms: *approved_ms,
            approved_by: approved_by.clone(),
            named: named == Some(*digest),
            in_use: used.is_some_and(|used| used.baseline == *digest),
            reason: (named != Some(*digest)).then(|| why_not_named(desired.as_ref(), slot)),
        })
    }

    /// What was counted in the declared period.
    async fn record(&self, row: &ProposalRow) -> Result<SiteBaseline, Error> {
        let ProposalRow { device, slot, bundle, from_ms, to_ms, .. } = row.clone();
        let filter = WindowFilter {
            devices: Some(vec![device.clone()]),
            slot: Some(slot.clone()),
            to_ms: Some(to_ms),
        };
        let found = self.store.windows(&bundle, &filter).await?;
        let oldest_ms = found.windows.iter().map(|window| window.closed_ms).min();
        if found.cut && oldest_ms.is_none_or(|oldest_ms| oldest_ms > from_ms) {
            let max = self.limits.drift_profiles_max;
            let why = format!("the period has more than {max} profiles: declare a shorter one");
            return Err(Error::Conflict(why));
        }
        let stock = self.registry.stock(bundle).await?;
        let work = move || {
            let baseline = stock
                .baseline()
                .ok_or_else(|| Error::Conflict(format!("bundle {bundle} has no baseline")))?;
            let record = SiteRecord { device, slot, bundle, from_ms, to_ms };
            record_site(baseline, record, &found.windows)
        };
        tokio::task::spawn_blocking(work).await.expect("recording a site does not panic")
    }
}

/// Mutes.
impl Manager {
    /// Mutes alarms until a date.
    ///
    /// # Errors
    /// [`Error::Refused`] for a scope that names nothing, and an end that has passed or is too far ahead.
    pub async fn add_mute(&self, new: &NewMute) -> Result<Mute, Error> {
        let now_ms = self.now_ms();
        check_mute(new, now_ms, &self.limits)?;
        let mute = self.store.add_mute(new, now_ms).await?;
        self.tell_mute(&mute).await?;
        Ok(mute)
    }

    /// Ends a mute before its time.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such mute.
    pub async fn remove_mute(&self, id: u64) -> Result<(), Error> {
        let mutes = self.store.mutes(self.now_ms()).await?;
        self.store.remove_mute(id).await?;
        match mutes.iter().find(|mute| mute.id == id) {
            Some(mute) => self.tell_mute(mute).await,
            None => Ok(()),
        }
    }

    /// Tells listeners of the devices that a mute may be about.
    async fn tell_mute(&self, mute: &Mute) -> Result<(), Error> {
        match &mute.given.scope.device {
            Some(device) => self.live.tell([device.clone()]),
            None => self.live.tell(self.store.devices().await?.into_iter().map(|row| row.id)),
        }
        Ok(())
    }
}

/// The site baseline of a row.
pub fn read_baseline(row: &SiteRow) -> SiteBaseline {
    SiteBaseline::decode(&row.baseline).expect("site baselines are stored as they were built")
}

fn why_not_named(desired: Option<&DesiredRow>, slot: &SlotName) -> String {
    match desired.and_then(|desired| desired.slots.get(slot)) {
        Some(held) => format!(
            "bundle {} counts in other bins than this was recorded in: record the site anew",
            held.bundle
        ),
        None => "the slot should run nothing".to_owned(),
    }
}

fn not_over(row: &ProposalRow) -> String {
    format!("the period is not over: it ends at {} (Unix milliseconds)", row.to_ms)
}

fn no_proposal(device: &DeviceId, slot: &SlotName) -> Error {
    Error::NotFound(format!("no period is declared for the slot {slot} of {device}"))
}

fn check_mute(new: &NewMute, now_ms: u64, limits: &Limits) -> Result<(), Error> {
    check_text("by", &new.by, limits)?;
    check_text("note", &new.note, limits)?;
    let scope = &new.scope;
    let names_something = scope.bundle.is_some()
        || scope.device.is_some()
        || scope.slot.is_some()
        || scope.stream.is_some();
    if !names_something {
        let why = "the scope names no bundle, device, slot or stream: it would mute everything";
        return Err(Error::Refused(why.into()));
    }
    if let Some(stream) = &scope.stream {
        check_text("scope.stream", stream, limits)?;
    }
    if new.until_ms <= now_ms {
        return Err(Error::Refused(format!("until_ms={} has passed already", new.until_ms)));
    }
    if new.until_ms > now_ms.saturating_add(limits.mute_ms_max) {
        let days = limits.mute_ms_max / (24 * 60 * 60 * 1000);
        return Err(Error::Refused(format!("a mute ends at most {days} days from now")));
    }
    Ok(())
}

fn check_text(what: &str, text: &str, limits: &Limits) -> Result<(), Error> {
    let max = limits.text_bytes_max;
    if text.trim().is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(Error::Refused(format!(
            "{what} is empty, has control characters or more than {max} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{drift::MuteScope, testing::NOW_MS};

    #[test]
    fn periods_and_mutes_beyond_their_limits_are_refused_by_name() {
        let limits = Limits::default();
        let period = |from_ms, to_ms| {
            Period { from_ms, to_ms }.check(NOW_MS, &limits).map_err(|error| error.to_string())
        };
        let (hour, day) = (3_600_000, 24 * 3_600_000);
        assert_eq!(period(NOW_MS - 9 * day, NOW_MS + hour), Ok(()));
        for (from_ms, to_ms, named) in [
            (NOW_MS, NOW_MS, "before it begins"),
            (NOW_MS - 40 * day, NOW_MS, "at most 744 hours"),
            (NOW_MS + 20 * day, NOW_MS + 40 * day, "744 hours from now"),
        ] {
            let error = period(from_ms, to_ms).expect_err(named);
            assert!(error.contains(named), "{named}: {error}");
        }
        let scope = MuteScope { stream: Some("flow".into()), ..MuteScope::default() };
        let good = NewMute {
            scope,
            acknowledges: false,
            until_ms: NOW_MS + day,
            by: "ada".into(),
            note: "known".into(),
        };
        assert!(check_mute(&good, NOW_MS, &limits).is_ok());
        for (wrong, named) in [
            (NewMute { until_ms: NOW_MS, ..good.clone() }, "has passed"),
            (NewMute { until_ms: NOW_MS + 93 * day, ..good.clone() }, "at most 92 days"),
            (NewMute { scope: MuteScope::default(), ..good.clone() }, "mute everything"),
            (NewMute { by: " ".into(), ..good.clone() }, "by is empty"),
            (NewMute { note: String::new(), ..good.clone() }, "note is empty"),
        ] {
            let error = check_mute(&wrong, NOW_MS, &limits).expect_err(named).to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
