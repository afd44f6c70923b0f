/** The hub of the cluster, as a program of its own: one file under the name of a known model. Says its address, and ends with its stdin. */
import { readFileSync } from "node:fs";
import { contentOf, FakeHub } from "../support/fake-hub.ts";

const [address = "127.0.0.1", repo = "", file = "", model = "", token = ""] = process.argv.slice(2);
const hub = await FakeHub.start(address);
hub.repos.set(repo, { commit: "5a".repeat(20), token, license: "apache-2.0", files: { [file]: contentOf(readFileSync(model)) } });
process.stdout.write(`${hub.url}\n`);
process.stdin.on("end", () => hub.stop()).resume();
