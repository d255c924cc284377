import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.Participant;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;

/**
 * Curator's recipes, as a test tells them what to do.
 *
 * <p>A line of standard input is a command: an id, a handle, a verb and its arguments. Its answer is a line of standard
 * output: the id, and "ok" and words, or "error" and a message. All are separated by tabs. A handle is one recipe, made
 * by the verbs mutex, read, write, semaphore, latch, member and node, with a path. It has a thread of its own, as a mutex is the
 * thread's that acquired it: what is told to one handle is done in order, and none waits for another. The program ends
 * when its input does.
 */
public final class CuratorPeer {
    /** What each recipe can be told. */
    interface Recipe {
        void acquire() throws Exception;

        default boolean tryAcquire() throws Exception {
            throw new UnsupportedOperationException();
        }

        void release() throws Exception;

        Collection<String> participants() throws Exception;

        default String leader() throws Exception {
            throw new UnsupportedOperationException();
        }
    }

    /** InterProcessMutex, and both sides of InterProcessReadWriteLock, which are such. */
    record Mutex(InterProcessMutex mutex) implements Recipe {
        public void acquire() throws Exception {
            mutex.acquire();
        }

        public boolean tryAcquire() throws Exception {
            return mutex.acquire(0, TimeUnit.SECONDS);
        }

        public void release() throws Exception {
            mutex.release();
        }

        public Collection<String> participants() throws Exception {
            return mutex.getParticipantNodes();
        }
    }

    /** InterProcessSemaphoreV2; the lease that was acquired last is released first. */
    record Semaphore(InterProcessSemaphoreV2 semaphore, Deque<Lease> leases) implements Recipe {
        public void acquire() throws Exception {
            leases.push(semaphore.acquire());
        }

        public boolean tryAcquire() throws Exception {
            Lease lease = semaphore.acquire(0, TimeUnit.SECONDS);
            if (lease != null) {
                leases.push(lease);
            }
            return lease != null;
        }

        public void release() {
            semaphore.returnLease(leases.pop());
        }

        public Collection<String> participants() throws Exception {
            return semaphore.getParticipantNodes();
        }
    }

    /** LeaderLatch: acquired when it leads, released by closing it. */
    static final class Latch implements Recipe {
        private final Supplier<LeaderLatch> make; // a closed one cannot be started again
        private LeaderLatch latch;

        Latch(Supplier<LeaderLatch> make) {
            this.make = make;
            latch = make.get();
        }

        public void acquire() throws Exception {
            latch.start();
            latch.await();
        }

        public void release() throws Exception {
            latch.close();
            latch = make.get();
        }

        public Collection<String> participants() throws Exception {
            return latch.getParticipants().stream().map(Participant::getId).toList();
        }

        public String leader() throws Exception {
            return latch.getLeader().getId();
        }
    }

    /** GroupMember: acquired when it is started, which does not wait until it is a member; released by closing it. */
    record Member(GroupMember member) implements Recipe {
        public void acquire() {
            member.start();
        }

        public void release() {
            member.close();
        }

        public Collection<String> participants() {
            return member.getCurrentMembers().entrySet().stream()
                    .map(entry -> entry.getKey() + "=" + new String(entry.getValue(), StandardCharsets.UTF_8))
                    .toList();
        }
    }

    /** PersistentNode, ephemeral: acquired when it exists, released by closing it. */
    record Node(PersistentNode node) implements Recipe {
        public void acquire() throws Exception {
            node.start();
            if (!node.waitForInitialCreate(20, TimeUnit.SECONDS)) {
                throw new IllegalStateException("not created");
            }
        }

        public void release() throws Exception {
            node.close();
        }

        public Collection<String> participants() {
            return List.of(node.getActualPath());
        }
    }

    record Handle(Recipe recipe, ExecutorService thread) {}

    public static void main(String[] arguments) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(arguments[0], new RetryNTimes(3, 100));
        client.start();
        client.blockUntilConnected();
        say("connected", "ok", List.of());
        Map<String, Handle> handles = new HashMap<>();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split("\t");
            String id = words[0], verb = words[2];
            if (words.length > 3) {
                handles.put(words[1], new Handle(make(client, words), newThread()));
                say(id, "ok", List.of());
            } else {
                Handle handle = handles.get(words[1]);
                handle.thread().execute(() -> answer(id, handle.recipe(), verb));
            }
        }
        client.close(); // and with its session goes whatever is held
        System.exit(0);
    }

    private static ExecutorService newThread() {
        return Executors.newSingleThreadExecutor(
                task -> {
                    Thread thread = new Thread(task);
                    thread.setDaemon(true);
                    return thread;
                });
    }

    private static Recipe make(CuratorFramework client, String[] words) {
        String kind = words[2], path = words[3];
        return switch (kind) {
            case "mutex" -> new Mutex(new InterProcessMutex(client, path));
            case "read" -> new Mutex(new InterProcessReadWriteLock(client, path).readLock());
            case "write" -> new Mutex(new InterProcessReadWriteLock(client, path).writeLock());
            case "semaphore" -> {
                int limit = Integer.parseInt(words[4]);
                yield new Semaphore(new InterProcessSemaphoreV2(client, path, limit), new ArrayDeque<>());
            }
            case "member" -> {
                byte[] payload = words[5].getBytes(StandardCharsets.UTF_8);
                yield new Member(new GroupMember(client, path, words[4], payload));
            }
            case "latch" -> new Latch(() -> new LeaderLatch(client, path, words[4]));
            case "node" -> new Node(
                    new PersistentNode(client, CreateMode.EPHEMERAL, false, path, words[4].getBytes()));
            default -> throw new IllegalArgumentException(kind);
        };
    }

    private static void answer(String id, Recipe recipe, String verb) {
        try {
            say(id, "ok", obey(recipe, verb));
        } catch (Throwable error) { // told to the test, which knows what it means
            say(id, "error", List.of(error.toString().replaceAll("\\s", " ")));
        }
    }

    private static Collection<String> obey(Recipe recipe, String verb) throws Exception {
        switch (verb) {
            case "acquire" -> recipe.acquire();
            case "try" -> {
                return List.of(String.valueOf(recipe.tryAcquire()));
            }
            case "release" -> recipe.release();
            case "participants" -> {
                return recipe.participants();
            }
            case "leader" -> {
                return List.of(recipe.leader());
            }
            default -> throw new IllegalArgumentException(verb);
        }
        return List.of();
    }

    private static void say(String id, String outcome, Collection<String> words) {
        StringBuilder line = new StringBuilder(id).append('\t').append(outcome);
        words.forEach(word -> line.append('\t').append(word));
        System.out.println(line);
        System.out.flush();
    }
}
