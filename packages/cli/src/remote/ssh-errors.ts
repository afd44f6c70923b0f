/** What `ssh` says when there is no way, as one sentence that says what to do. */
import { type ErrorCode, RbeesError } from "@rbees/contracts/errors";
import type { Target } from "./target.ts";

interface Trouble {
  readonly said: RegExp;
  readonly code: ErrorCode;
  readonly sentence: (at: { name: string; host: string; login: string; said: RegExpExecArray }) => string;
}

const TROUBLES: readonly Trouble[] = [
  {
    said: /Could not resolve hostname (\S+?):/i,
    code: "UNREACHABLE",
    sentence: ({ name, said }) =>
      `There is no host "${said[1]}"${name.includes(said[1] ?? "") ? "" : ` (for ${name})`}: it is neither registered (\`rbees pool list\`), nor in ~/.ssh/config, nor known to DNS. Check the spelling.`,
  },
  {
    said: /REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed/i,
    code: "FORBIDDEN",
    sentence: ({ name, host, login }) =>
      `The host key of ${name} is not the one that is known: it was installed anew, or somebody else answers. If you know why, forget the old key with \`ssh-keygen -R ${host}\` and connect once with \`ssh ${login}\`.`,
  },
  {
    said: /Host key verification failed|No \S+ host key is known/i,
    code: "FORBIDDEN",
    sentence: ({ name, login }) =>
      `The host key of ${name} is not known yet: connect once with \`ssh ${login}\`, compare its fingerprint, and say yes.`,
  },
  {
    said: /Permission denied(?: \(([^)]*)\))?/i,
    code: "FORBIDDEN",
    sentence: ({ name, login, said }) =>
      `${name} lets nobody in with the keys that were offered${said[1] === undefined ? "" : ` (it accepts: ${said[1]})`}: \`ssh-add -l\` shows yours, \`ssh-copy-id ${login}\` brings one there; \`ssh ${login} true\` has to work without a question.`,
  },
  {
    said: /Too many authentication failures/i,
    code: "FORBIDDEN",
    sentence: ({ name }) =>
      `${name} saw too many keys before the right one: name it for this host in ~/.ssh/config (IdentityFile, IdentitiesOnly yes).`,
  },
  {
    said: /Connection refused/i,
    code: "UNREACHABLE",
    sentence: ({ name }) =>
      `${name} refuses the connection: no SSH server listens on that port. Start it there (Linux: \`sudo systemctl start ssh\`; Mac: Sharing, Remote Login), or give the right port: user@host:port.`,
  },
  {
    said: /timed out|timeout/i,
    code: "UNREACHABLE",
    sentence: ({ name }) => `${name} does not answer in time: is it switched on, and on this network?`,
  },
  {
    said: /No route to host|Network is unreachable|Host is down/i,
    code: "UNREACHABLE",
    sentence: ({ name }) => `There is no way to ${name} from here: is it switched on, and are both on the same network or VPN?`,
  },
  {
    said: /Connection (?:closed|reset)|kex_exchange|banner exchange|Broken pipe/i,
    code: "UNREACHABLE",
    sentence: ({ name, login }) => `${name} closed the connection before anybody was let in: \`ssh -v ${login}\` shows why.`,
  },
];

export function connectionError({ name: given, host, user, port }: Target, stderr: string): RbeesError {
  // A registered name is ours alone: with it goes what it stands for.
  const name = given.includes(host) ? given : `${given} (${host})`;
  const login = [...(port === undefined ? [] : ["-p", String(port)]), user === undefined ? host : `${user}@${host}`].join(" ");
  for (const { said, code, sentence } of TROUBLES) {
    const found = said.exec(stderr);
    if (found !== null)
      return new RbeesError(code, sentence({ name, host: port === undefined ? host : `'[${host}]:${port}'`, login, said: found }));
  }
  const last = stderr.trim().split("\n").at(-1)?.trim() ?? "";
  // One that was there already breaks without a word.
  const what =
    last === ""
      ? `The connection to ${name} could not be made, or broke, and ssh does not say why`
      : `ssh can't connect to ${name}: ${last}`;
  return new RbeesError("UNREACHABLE", `${what}. \`ssh ${login} true\` has to work, then try again.`);
}
