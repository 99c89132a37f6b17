"""Mistakes that somebody might make in the protocols of `store` and `execution`."""

from mutation import mutant

LOG = "store.folder_log:"
OBJECTS = "store.object_log:ObjectLog."
EVENTS = "store.object_events:"

FOLDER = (
    mutant(
        "folder", "a line is not synced",
        LOG + "LinesFile.append", "self._environment.fsync(self.file.fileno())", "pass",
    ),
    mutant(
        "folder", "the names of the folders are not synced",
        LOG + "FolderLog.__init__", "sync(parent, environment)", "pass",
    ),
    mutant(
        "folder", "a file that replaces another is not synced",
        "store.atomic_write:whole_file", "sync(draft, environment)", "pass",
    ),
    mutant(
        "folder", "a torn last line is not cut",
        LOG + "FolderLog.append", "if self._torn is not None:", "if False:",
        harmless="the next line is found behind it; only a study of older code would not open",
    ),
    mutant(
        "folder", "a line that failed is not taken back",
        LOG + "LinesFile.append", "self.cut(start, line)", "pass",
    ),
    mutant(
        "folder", "a second `run` begins the study anew",
        LOG + "LinesFile.__init__", "open(path, mode).close()", 'open(path, "wb").close()',
    ),
    mutant(
        "folder", "the study is read before it is taken",
        "store.ledger:Ledger.open",
        "return cls.continued(FolderLog(folder, environment=environment), environment)",
        "early = scanned(folder)\n"
        "    log = FolderLog(folder, environment=environment)\n"
        "    log.take_over(early)\n"
        "    return cls(log, concluded(early, log.path), environment)",
    ),
    mutant(
        "folder", "the age of the lease is not asked for",
        "store.lease:LeasePlace.refuse_if_held", "if silent < EXPIRY_S:", "if False:",
    ),
    mutant(
        "folder", "a repair drops the last good line",
        "store.repair:_amend",
        "for number in sorted(fences):", "for number in sorted(fences)[:-1]:",
    ),
    mutant(
        "folder", "an event is in the record and never on disk",
        "store.ledger:Ledger._write", "offset = self._log.append(seq, line)", "offset = 0",
    ),
)  # fmt: skip

OBJECT = (
    mutant(
        "object", "a second `run` begins the study anew",
        OBJECTS + "_header_is_mine", "begun = is_stored(self._storage, event_object(0))",
        "self._storage.write(event_object(0), line)\n    begun = False",
        OBJECTS + "_header_is_mine", "self._storage.create(HEADER_COPY, line)", "True",
    ),
    mutant(
        "object", "an event is written whether there is one or not",
        "store.object_storage:ObjectStorage.create",
        'mode="create", use_multipart=False', 'mode="overwrite"',
    ),
    mutant(
        "object", "that an event exists counts as success",
        "store.object_storage:ObjectStorage.create",
        "return self.read(name) == content", "return True",
    ),
    mutant(
        "object", "an event is acknowledged though the store has failed",
        OBJECTS + "append", "except OSError as error:",
        "except OSError:\n            mine = True\n        except ZeroDivisionError as error:",
    ),
    mutant(
        "object", "after an unknown outcome the next number is used",
        OBJECTS + "append", 'self._lost = "an earlier event could not be written"\n',
        "self.next_seq += 1\n",
    ),
    mutant(
        "object", "who finds a number taken goes on with the next one",
        OBJECTS + "take_over", "self._read()", "self.next_seq += 1",
    ),
    mutant(
        "object", "no event says that the study was taken over",
        OBJECTS + "take_over", "if self._storage.create(event_object(number), line):\n"
        "            self._append_here(line)\n", "if True:\n",
        harmless="the number of its first event keeps the former writer out as well, as long as no "
        "two writers write the same bytes, which the model of decision 28 has",
    ),
    mutant(
        "object", "the lease is ignored",
        "store.lease:LeasePlace.refuse_if_held", "if silent < EXPIRY_S:", "if False:",
    ),
    mutant(
        "object", "the lease and the numbers are ignored",
        "store.lease:LeasePlace.refuse_if_held", "if silent < EXPIRY_S:", "if False:",
        OBJECTS + "append", "if not mine:", "if False:",
    ),
    mutant(
        "object", "a joined object is trusted as it is",
        EVENTS + "_copies", "if is_run(content, run)", "if content",
    ),
    mutant(
        "object", "fences begin with 1 again",
        OBJECTS + "take_over", "self.fence = 1 + last", "self.fence = 1",
        harmless="one event per number: in an object store no line is ever told apart by its fence",
    ),
)  # fmt: skip
HUB = "execution.hub:Hub."
RECORDER = "execution.recorder:Recorder."

STUDY = (
    mutant(
        "folder study", "a lane goes on before its row is dealt with",
        HUB + "verdict", "return job is None or job.handled >= job.sequence", "return True",
    ),
    mutant(
        "folder study", "a row that is reported again is recorded again",
        RECORDER + "row", "if known is None:", "if True:",
    ),
    mutant(
        "folder study", "a dead hub fails trials",
        "execution.conductor:Conductor.gave_up",
        "if not self._hub.answers():", "if False:",
        "execution.conductor:Conductor.gave_up",
        "elif self._given_up[number] > ACTOR_RESTARTS:", "elif True:",
    ),
    mutant(
        "folder study", "trials that a stopped study had begun are not asked again",
        "execution.conductor:pending", "if trial.status is None", "if False",
    ),
)  # fmt: skip
RARE = (
    mutant(
        "folder", "a failed line is cut from where the file ended when it was opened",
        LOG + "LinesFile.append", "os.fstat(self.file.fileno()).st_size", "self.file.tell()",
        LOG + "LinesFile.cut", "if torn.startswith(self.tail(start)):", "if True:",
    ),
    mutant(
        "folder", "a lost lease begins again with fence 1",
        LOG + "FolderLog.take_over", "self._lease.outrank(scan.entries[-1].fence)", "pass",
    ),
    mutant(
        "folder", "a holder never hears that it has lost the study",
        "store.lease:Lease.lost", "now is None or", "False and",
    ),
    mutant(
        "folder", "damaged lines are left out silently",
        "store.ledger:concluded", "if scan.damaged:", "if False:",
        "store.ledger:concluded", "if scan.missing:", "if False:",
    ),
    mutant(
        "object", "a reader stops at the first gap",
        "store.ledger:concluded", "if scan.missing:", "if False:",
    ),
    mutant(
        "folder", "a torn line is cut without looking at what is there by now",
        LOG + "LinesFile.cut", "if torn.startswith(self.tail(start)):", "if True:",
    ),
    mutant(
        "folder", "the lease is not looked at before a line is written",
        LOG + "FolderLog.append", "self.check()\n    if self._torn", "if self._torn",
    ),
    mutant(
        "folder", "the lease is not looked at again after a line is written",
        LOG + "FolderLog.append", "self.check()\n    return offset", "return offset",
    ),
    mutant(
        "folder", "lines of a former writer count",
        "store.scan:scanned", "if entry.fence < fence or repeated:", "if repeated:",
    ),
    mutant(
        "folder", "what a new writer never read stays before its lines",
        "store.scan:scanned", "_overrule(scan, entry.seq)", "pass",
    ),
    mutant(
        "folder", "a number that is there twice counts twice",
        "store.scan:scanned", "if entry.fence < fence or repeated:", "if entry.fence < fence:",
    ),
    mutant(
        "folder study", "a worker of a former start is heard",
        HUB + "_is_current", "return ", "return True or ",
    ),
    mutant(
        "folder study", "the row of a lost worker still waits when its trial runs again",
        "execution.hub_jobs:HubJob.interrupt", "self.item, self.handled = None, self.sequence",
        "pass",
    ),
    mutant(
        "folder study", "a pull that comes twice hands out the next row",
        "execution.hub_jobs:HubJob.arrived", "self.sequence > handled", "True",
    ),
)  # fmt: skip
"""Mistakes that no rule notices in 25 to 60 seeds, or (five) none for long.

They need a stop of a minute at one system call, or one late message, and a second process at the
same moment. Those of the log are walked in all states by the models of decision 28, those of the
hub are tests of `tests/execution/test_lanes_hub.py`.
"""
MUTANTS = FOLDER + OBJECT + STUDY
