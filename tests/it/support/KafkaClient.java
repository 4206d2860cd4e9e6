import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's own clients, for what the tests cannot do with librdkafka.
 *
 * <p>{@code produce BROKERS TOPIC PARTITIONS FILE CODEC...}: each line of the file is the value of a
 * record, to the partitions in turn, all of them once with each codec. {@code move BROKERS TOPIC}:
 * each partition has another of its replicas as its leader. {@code deny BROKERS GROUP OPERATION}: nobody
 * may do that with the group.
 */
public final class KafkaClient {
  private KafkaClient() {}

  public static void main(String[] args) throws Exception {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", args[1]);
    switch (args[0]) {
      case "produce" -> produce(properties, args);
      case "move" -> move(properties, args[2]);
      case "deny" -> deny(properties, args[2], AclOperation.valueOf(args[3]));
      default -> throw new IllegalArgumentException(args[0]);
    }
  }

  private static void deny(Properties properties, String group, AclOperation operation)
      throws Exception {
    ResourcePattern pattern =
        new ResourcePattern(ResourceType.GROUP, group, PatternType.LITERAL);
    AccessControlEntry entry =
        new AccessControlEntry("User:ANONYMOUS", "*", operation, AclPermissionType.DENY);
    try (Admin admin = Admin.create(properties)) {
      admin.createAcls(List.of(new AclBinding(pattern, entry))).all().get();
    }
  }

  private static void produce(Properties properties, String[] args) throws Exception {
    properties.put("batch.size", "500000");
    properties.put("linger.ms", "50");
    int partitions = Integer.parseInt(args[3]);
    List<String> values = Files.readAllLines(Path.of(args[4]));
    for (String codec : List.of(args).subList(5, args.length)) {
      properties.put("compression.type", codec);
      StringSerializer texts = new StringSerializer();
      List<Future<?>> sent = new ArrayList<>();
      try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties, texts, texts)) {
        for (int at = 0; at < values.size(); at++) {
          sent.add(producer.send(new ProducerRecord<>(args[2], at % partitions, null, values.get(at))));
        }
      }
      for (Future<?> each : sent) {
        each.get();
      }
    }
  }

  private static void move(Properties properties, String topic) throws Exception {
    try (Admin admin = Admin.create(properties)) {
      Map<TopicPartition, Optional<NewPartitionReassignment>> orders = new HashMap<>();
      admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().forEach(
          partition -> {
            List<Integer> replicas =
                new ArrayList<>(partition.replicas().stream().map(Node::id).toList());
            int leader = replicas.indexOf(partition.leader().id());
            Collections.rotate(replicas, -1 - leader);
            orders.put(
                new TopicPartition(topic, partition.partition()),
                Optional.of(new NewPartitionReassignment(replicas)));
          });
      admin.alterPartitionReassignments(orders).all().get();
      Instant end = Instant.now().plus(Duration.ofSeconds(60));
      while (true) {
        Map<TopicPartition, Optional<Throwable>> results =
            admin.electLeaders(ElectionType.PREFERRED, orders.keySet()).partitions().get();
        List<Throwable> errors =
            results.values().stream()
                .flatMap(Optional::stream)
                .filter(error -> !(error instanceof ElectionNotNeededException))
                .toList();
        if (errors.isEmpty()) {
          return;
        }
        // A replica that was away may not have all records yet.
        if (Instant.now().isAfter(end)) {
          throw new IllegalStateException(errors.toString());
        }
        Thread.sleep(100);
      }
    }
  }
}
