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
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicInteger;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.Participant;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedValue;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;

/**
 * Curator's recipes, as a test tells them what to do.
 *
 * <p>A line of standard input is a command: an id, a handle, a verb and its arguments. Its answer is a line of standard
 * output: the id, and "ok" and words, or "error" and a message. All are separated by tabs. A handle is one recipe, made
 * by the verbs mutex, read, write, semaphore, latch, node, member, barrier and doublebarrier, with a path. It has a
 * thread of its own, as a mutex is the
 * thread's that acquired it: what is told to one handle is done in order, and none waits for another. The program ends
 * when its input does.
 *
 * <p>The verbs count, text, long and int make something shared, which "get" reads, and "change" adds to, or sets.
 */
public final class CuratorPeer {
    /** What each recipe can be told. */
    interface Recipe {
        void acquire() throws Exception;

        default boolean tryAcquire() throws Exception {
            throw new UnsupportedOperationException();
        }

        void release() throws Exception;

        default void close() throws Exception {
            throw new UnsupportedOperationException();
        }

        default Collection<String> participants() throws Exception {
            throw new UnsupportedOperationException();
        }

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

    /** SharedCount, SharedValue, DistributedAtomicLong and DistributedAtomicInteger. */
    interface Shared extends Recipe {
        String get() throws Exception;

        /** Adds a number, or sets a text; the result. */
        String change(String by) throws Exception;

        default void acquire() {
            throw new UnsupportedOperationException();
        }

        default void release() {
            throw new UnsupportedOperationException();
        }

        default Collection<String> participants() {
            throw new UnsupportedOperationException();
        }
    }

    record Count(SharedCount count) implements Shared {
        public String get() {
            return String.valueOf(count.getCount());
        }

        public String change(String by) throws Exception {
            while (true) {
                VersionedValue<Integer> before = count.getVersionedValue();
                int sum = before.getValue() + Integer.parseInt(by);
                if (count.trySetCount(before, sum)) {
                    return String.valueOf(sum);
                }
            }
        }
    }

    record Text(SharedValue value) implements Shared {
        public String get() {
            return new String(value.getValue(), StandardCharsets.UTF_8);
        }

        public String change(String by) throws Exception {
            value.setValue(by.getBytes(StandardCharsets.UTF_8));
            return by;
        }
    }

    record Long64(DistributedAtomicLong number) implements Shared {
        public String get() throws Exception {
            return number.get().postValue().toString();
        }

        public String change(String by) throws Exception {
            return succeeded(number.add(Long.parseLong(by)));
        }
    }

    record Int32(DistributedAtomicInteger number) implements Shared {
        public String get() throws Exception {
            return number.get().postValue().toString();
        }

        public String change(String by) throws Exception {
            return succeeded(number.add(Integer.parseInt(by)));
        }
    }

    private static String succeeded(AtomicValue<?> result) {
        if (!result.succeeded()) {
            throw new IllegalStateException("others were faster");
        }
        return result.postValue().toString();
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

    /** DistributedBarrier: closed by setting it, acquired by waiting at it, released by removing it. */
    record Barrier(DistributedBarrier barrier) implements Recipe {
        public void close() throws Exception {
            barrier.setBarrier();
        }

        public void acquire() throws Exception {
            barrier.waitOnBarrier();
        }

        public void release() throws Exception {
            barrier.removeBarrier();
        }
    }

    /** DistributedDoubleBarrier: acquired by entering it, released by leaving it. */
    record DoubleBarrier(DistributedDoubleBarrier barrier) implements Recipe {
        public void acquire() throws Exception {
            barrier.enter();
        }

        public void release() throws Exception {
            barrier.leave();
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
            if (!handles.containsKey(words[1])) {
                handles.put(words[1], new Handle(make(client, words), newThread()));
                say(id, "ok", List.of());
            } else {
                Handle handle = handles.get(words[1]);
                handle.thread().execute(() -> answer(id, handle.recipe(), verb, words));
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

    private static Recipe make(CuratorFramework client, String[] words) throws Exception {
        String kind = words[2], path = words[3];
        return switch (kind) {
            case "mutex" -> new Mutex(new InterProcessMutex(client, path));
            case "read" -> new Mutex(new InterProcessReadWriteLock(client, path).readLock());
            case "write" -> new Mutex(new InterProcessReadWriteLock(client, path).writeLock());
            case "semaphore" -> {
                int limit = Integer.parseInt(words[4]);
                yield new Semaphore(new InterProcessSemaphoreV2(client, path, limit), new ArrayDeque<>());
            }
            case "count" -> {
                SharedCount count = new SharedCount(client, path, 0);
                count.start();
                yield new Count(count);
            }
            case "text" -> {
                SharedValue value = new SharedValue(client, path, new byte[0]);
                value.start();
                yield new Text(value);
            }
            case "long" -> new Long64(new DistributedAtomicLong(client, path, new RetryNTimes(1000, 1)));
            case "int" -> new Int32(new DistributedAtomicInteger(client, path, new RetryNTimes(1000, 1)));
            case "member" -> {
                byte[] payload = words[5].getBytes(StandardCharsets.UTF_8);
                yield new Member(new GroupMember(client, path, words[4], payload));
            }
            case "barrier" -> new Barrier(new DistributedBarrier(client, path));
            case "doublebarrier" -> new DoubleBarrier(
                    new DistributedDoubleBarrier(client, path, Integer.parseInt(words[4])));
            case "latch" -> new Latch(() -> new LeaderLatch(client, path, words[4]));
            case "node" -> new Node(
                    new PersistentNode(client, CreateMode.EPHEMERAL, false, path, words[4].getBytes()));
            default -> throw new IllegalArgumentException(kind);
        };
    }

    private static void answer(String id, Recipe recipe, String verb, String[] words) {
        try {
            say(id, "ok", obey(recipe, verb, words));
        } catch (Throwable error) { // told to the test, which knows what it means
            say(id, "error", List.of(error.toString().replaceAll("\\s", " ")));
        }
    }

    private static Collection<String> obey(Recipe recipe, String verb, String[] words) throws Exception {
        switch (verb) {
            case "get" -> {
                return List.of(((Shared) recipe).get());
            }
            case "change" -> {
                return List.of(((Shared) recipe).change(words[3]));
            }
            case "acquire" -> recipe.acquire();
            case "try" -> {
                return List.of(String.valueOf(recipe.tryAcquire()));
            }
            case "release" -> recipe.release();
            case "close" -> recipe.close();
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
