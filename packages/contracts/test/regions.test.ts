/** Which areas a region is in: what can't be told is outside. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { AREAS, areaName, areasOf } from "../src/regions.ts";

const within = (region: string | undefined, area: string) => areasOf(region).includes(areaName(area));

test("the EU has 27 countries, the EEA three more", () => {
  const countries = (area: string) => [...(AREAS[area] ?? [])].filter((code) => code !== "eu");
  assert.equal(countries("EU").length, 27);
  assert.deepEqual(
    countries("EEA").filter((code) => !countries("EU").includes(code)),
    ["is", "li", "no"],
  );
});

test("a region is in its country, in what its name begins with, and in the areas of its country", () => {
  assert.deepEqual(areasOf("FR-par-2"), ["fr-par-2", "fr-par", "fr", "EU", "EEA"]);
  assert.deepEqual(areasOf("no-oslo"), ["no-oslo", "no", "EEA"]);
  assert.deepEqual(areasOf("eu"), ["eu", "EU", "EEA"]);
  for (const area of ["eu", "EU", "eea", "de", "DE", "de-fra1"]) assert.ok(within("de-fra1", area), area);
  assert.ok(!within("de-fra1", "de-fra"));
});

test("who declares nothing is nowhere, and names that mean other places elsewhere are not in the EU", () => {
  for (const region of [
    undefined,
    "",
    "us",
    "gb",
    "uk",
    "ch-zrh",
    "eu-west-1",
    "eu-west-2",
    "eu-central-2",
    "europe-west2",
    "westeurope",
    "eur",
    "germany",
  ])
    for (const area of ["EU", "EEA", "de"]) assert.ok(!within(region, area), `${region} in ${area}`);
  assert.ok(!within("us", "constructor"));
});
