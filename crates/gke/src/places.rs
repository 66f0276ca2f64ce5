//! Regions and zones.

use crate::ApiError;

/// Region and the letters of its zones; the first three are those of a regional cluster.
const REGIONS: &[(&str, &str)] = &[
    ("africa-south1", "abc"),
    ("asia-east1", "abc"),
    ("asia-east2", "abc"),
    ("asia-northeast1", "abc"),
    ("asia-northeast2", "abc"),
    ("asia-northeast3", "abc"),
    ("asia-south1", "abc"),
    ("asia-south2", "abc"),
    ("asia-southeast1", "abc"),
    ("asia-southeast2", "abc"),
    ("australia-southeast1", "abc"),
    ("australia-southeast2", "abc"),
    ("europe-central2", "abc"),
    ("europe-north1", "abc"),
    ("europe-southwest1", "abc"),
    ("europe-west1", "bcd"),
    ("europe-west12", "abc"),
    ("europe-west2", "abc"),
    ("europe-west3", "abc"),
    ("europe-west4", "abc"),
    ("europe-west6", "abc"),
    ("europe-west8", "abc"),
    ("europe-west9", "abc"),
    ("me-central1", "abc"),
    ("me-west1", "abc"),
    ("northamerica-northeast1", "abc"),
    ("northamerica-northeast2", "abc"),
    ("southamerica-east1", "abc"),
    ("southamerica-west1", "abc"),
    ("us-central1", "abcf"),
    ("us-east1", "bcd"),
    ("us-east4", "abc"),
    ("us-east5", "abc"),
    ("us-south1", "abc"),
    ("us-west1", "abc"),
    ("us-west2", "abc"),
    ("us-west3", "abc"),
    ("us-west4", "abc"),
];

/// All region names.
pub fn regions() -> impl Iterator<Item = &'static str> {
    REGIONS.iter().map(|(region, _)| *region)
}

/// All zones of a region; none for an unknown one.
pub fn zones(region: &str) -> Vec<String> {
    let letters = REGIONS.iter().find(|(name, _)| *name == region).map_or("", |(_, letters)| letters);
    letters.chars().map(|letter| format!("{region}-{letter}")).collect()
}

/// A known zone or region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub name: String,
    pub region: String,
    pub zonal: bool,
}

impl Place {
    /// Looks a location up.
    ///
    /// # Errors
    /// 400 when there is no such place.
    pub fn parse(location: &str) -> Result<Self, ApiError> {
        let place = |region: &str, zonal| Self { name: location.to_owned(), region: region.to_owned(), zonal };
        if regions().any(|region| region == location) {
            return Ok(place(location, false));
        }
        let region = location.rsplit_once('-').map_or("", |(region, _)| region);
        if zones(region).iter().any(|zone| zone == location) {
            return Ok(place(region, true));
        }
        Err(ApiError::invalid(format!("Location {location:?} does not exist.")))
    }

    /// The zone itself, or three zones of the region.
    pub fn default_zones(&self) -> Vec<String> {
        if self.zonal { vec![self.name.clone()] } else { zones(&self.region).into_iter().take(3).collect() }
    }
}

/// `zones/Z` or `locations/R`, as links and error messages have it.
pub fn segment(location: &str) -> String {
    match Place::parse(location) {
        Ok(Place { zonal: true, .. }) => format!("zones/{location}"),
        _ => format!("locations/{location}"),
    }
}
