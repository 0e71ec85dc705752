//! The plots, which read well on a light and on a dark page: they have a ground of their own.

use std::path::Path;

use plotters::prelude::*;

use crate::{
    load::percentile,
    sides::{RATE, Setting, Side},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SIZE: (u32, u32) = (900, 480);
const PLAIN: RGBColor = RGBColor(138, 145, 152);
const OURS: RGBColor = RGBColor(47, 125, 91);
const GO: RGBColor = RGBColor(52, 110, 175);

fn colour(key: &str) -> RGBColor {
    if key.to_lowercase().contains("go") {
        GO
    } else if key.contains("plain") || key.contains("heap") {
        PLAIN
    } else {
        OURS
    }
}

/// Bars, one below the other.
pub(crate) fn cpu(path: &Path, sides: &[Side]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let most = sides
        .iter()
        .map(|side| side.cpu.median())
        .fold(1.0, f64::max);
    let rows = sides.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "CPU of the server per request at saturation, us",
            ("sans-serif", 18),
        )
        .margin(12)
        .margin_right(30)
        .x_label_area_size(30)
        .y_label_area_size(140)
        .build_cartesian_2d(0.0..most * 1.1, 0.0..rows)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_y_axis()
        .draw()?;
    for (at, side) in sides.iter().enumerate() {
        let top = rows - at as f64;
        let median = side.cpu.median();
        let bar = [(0.0, top - 0.15), (median, top - 0.85)];
        let label = ("sans-serif", 13).into_font().color(&BLACK);
        chart.draw_series([Rectangle::new(bar, colour(side.key).filled())])?;
        let place = (median + most * 0.01, top - 0.32);
        chart.draw_series([Text::new(format!("{median:.1}"), place, label.clone())])?;
        let (_, y) = chart.backend_coord(&(0.0, top - 0.32));
        root.draw(&Text::new(side.key, (12, y), label))?;
    }
    root.present()?;
    Ok(())
}

/// Latency by percentile, both logarithmic: what lies to the right is rare.
pub(crate) fn latency(path: &Path, sides: &[Side]) -> Result<(), Failure> {
    let shown = ["plain", "natural", "hand", "go", "go-pooled"];
    let shown: Vec<&Side> = sides
        .iter()
        .filter(|side| shown.contains(&side.key))
        .collect();
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = |side: &Side| {
        let nines = (0..=60).map(|n| f64::from(n) / 20.0);
        let all = &side.all;
        nines
            .map(|nines| (nines, percentile(all, 1.0 - 10_f64.powf(-nines))))
            .collect::<Vec<_>>()
    };
    let all: Vec<f64> = shown
        .iter()
        .flat_map(|side| points(side))
        .map(|(_, us)| us)
        .filter(|us| *us > 0.0)
        .collect();
    let low = all
        .iter()
        .copied()
        .fold(f64::INFINITY, f64::min)
        .clamp(1.0, 1e9);
    let high = all.iter().copied().fold(low * 2.0, f64::max);
    let caption = format!("Latency at {RATE} requests/s from when a request was due, us");
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..3.0, (low * 0.8..high * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(4)
        .x_label_formatter(&|nines: &f64| match nines.round() as u32 {
            0 => "0 %".into(),
            1 => "90 %".into(),
            2 => "99 %".into(),
            _ => "99.9 %".into(),
        })
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (n, side) in shown.iter().enumerate() {
        // Two lines of one colour differ in their width.
        let style = colour(side.key).stroke_width(1 + (n as u32 % 2) * 2);
        chart
            .draw_series(LineSeries::new(points(side), style))?
            .label(side.key)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    root.present()?;
    Ok(())
}

/// A point for each setting.
pub(crate) fn memory(path: &Path, settings: &[Setting]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = |setting: &Setting| (setting.highest.median(), setting.p99.median() / 1000.0);
    let most = settings
        .iter()
        .map(points)
        .fold((1.0, 0.1), |(x, y): (f64, f64), (a, b)| {
            (x.max(a), y.max(b))
        });
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Memory against latency, 64 connections at saturation",
            ("sans-serif", 18),
        )
        .margin(12)
        .margin_right(30)
        .x_label_area_size(45)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most.0 * 1.45, 0.0..most.1 * 1.15)?;
    chart
        .configure_mesh()
        .x_desc("highest RSS, MiB")
        .y_desc("p99, ms")
        .light_line_style(TRANSPARENT)
        .draw()?;
    for setting in settings {
        let at = points(setting);
        let name = setting.name.clone();
        chart.draw_series(PointSeries::of_element(
            [at],
            5,
            colour(&name).filled(),
            &|at, size, style| {
                EmptyElement::at(at)
                    + Circle::new((0, 0), size, style)
                    + Text::new(name.clone(), (9, -6), ("sans-serif", 12).into_font())
            },
        ))?;
    }
    root.present()?;
    Ok(())
}
