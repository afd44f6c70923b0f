/** Which areas a region is in: what can't be told is outside. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { AREAS, Area, areaName, areasOf, Region, regionProblem } from "../src/regions.ts";

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

test("a country that there is not is no place to stand and none to stay in; subdivisions and what EU and EEA are stay", () => {
  for (const region of ["de", "DE", "de-fsn1", "fr-par-2", "us-east", "gb", "xk", "eu", "eu-west-1", ...[...(AREAS["EEA"] ?? [])]]) {
    assert.equal(regionProblem(region), undefined, region);
    assert.ok(Region.safeParse(region).success && Area.safeParse(region).success, region);
  }
  for (const text of ["UE", "xx", "uk", "ue-west", "de.fra", "europe-west2", "basement", "constructor", "zz"]) {
    assert.match(regionProblem(text) ?? "", /^names no country that there is/, text);
    assert.match(
      Region.safeParse(text)
        .error?.issues.map(({ message }) => message)
        .join() ?? "",
      /^names no country that there is \(/,
      text,
    );
    const said = Area.safeParse(text).error?.issues.map(({ message }) => message);
    assert.deepEqual(said, [
      `names no area or country that there is (${text}): there are EU, EEA, and countries by their ISO 3166-1 code, such as de, fr-par-2 or gb`,
    ]);
  }
  assert.ok(Area.safeParse("eea").success && !Region.safeParse("EEA").success, "nobody stands in an area at large");
  assert.deepEqual(
    Region.safeParse("in the EU").error?.issues.map(({ message }) => message),
    ["up to 63 letters, digits and . _ -, the country's code first, such as de or fr-par-2"],
  );
});

test("every country has a name, and there are as many as in ISO 3166-1, with Kosovo", () => {
  const names = new Intl.DisplayNames("en", { type: "region", fallback: "none" });
  const letters = [..."abcdefghijklmnopqrstuvwxyz"];
  const codes = letters.flatMap((first) => letters.map((second) => first + second)).filter((code) => code !== "eu");
  const known = codes.filter((code) => regionProblem(code) === undefined);
  assert.equal(known.length, 250);
  for (const code of known) assert.ok(names.of(code.toUpperCase()) !== undefined, code);
});
