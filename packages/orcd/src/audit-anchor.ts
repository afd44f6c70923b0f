/** A second file for the signed heads of the audit trail, best on another machine's disk: whoever rewrites the trail would have to rewrite it too. */
import { type FileHandle, open } from "node:fs/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { Store } from "./store/port.ts";

export class AuditAnchor {
  readonly #file: FileHandle;
  #last: string | undefined;
  #adding = Promise.resolve();

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Refuses when nothing can be added to the file. */
  static async open(path: string): Promise<AuditAnchor> {
    try {
      return new AuditAnchor(await open(path, "a", 0o600));
    } catch (error) {
      throw new RbeesError(
        "CONFLICT",
        `audit_anchor ${path} can't be written: ${(error as Error).message}. Give a file that can, or leave it out.`,
        { cause: error },
      );
    }
  }

  /** Adds the last head of the store, if it is not the last one there already; on disk when it resolves. */
  add(store: Store): Promise<void> {
    const added = this.#adding.then(() => this.#add(store));
    this.#adding = added.catch(() => {});
    return added;
  }

  async #add(store: Store): Promise<void> {
    const head = await store.lastHead();
    if (head === undefined || head === this.#last) return;
    await this.#file.appendFile(`${head}\n`);
    await this.#file.datasync();
    this.#last = head;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
